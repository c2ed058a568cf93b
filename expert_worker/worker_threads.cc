#include "expert_worker/worker_threads.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <variant>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"

namespace braid {

using P = WorkerProtocol;

namespace {

// Between two looks at the device and the orders, while a step runs there: of a step of decoding, one in a hundred.
constexpr absl::Duration kLook = absl::Microseconds(50);

}  // namespace

WorkerThreads::WorkerThreads(EpochMember::Shared shared, StepRunner* runner, WorkerProbe* probe)
    : shared_(std::move(shared)),
      runner_(runner),
      probe_(probe),
      protocol_(shared_.config->moe_layer_count(), shared_.config->experts, runner->steps_at_once()),
      set_up_thread_([this] {
        while (const auto task = set_ups_.Pop()) Do(*task);
      }),
      step_thread_([this] { Compute(); }) {
  probe_->kv_blocks_total.Set(runner_->sequences().blocks().total());
}

WorkerThreads::~WorkerThreads() {
  Detach();
  WaitUntilOutOfStep(absl::InfiniteDuration());  // what runs orders once more, to forget, when it returns
  set_ups_.Close();
  steps_.Close();
  set_up_thread_.join();
  step_thread_.join();
}

template <typename F>
void WorkerThreads::Tell(const F& tell) {
  std::vector<Member> abandoned;  // goes after the lock: to close an exchange takes milliseconds
  absl::MutexLock lock(&mutex_);
  tell(protocol_);
  for (P::Order& order : protocol_.TakeOrders()) CarryOut(std::move(order), &abandoned);
  probe_->epoch.Set(static_cast<double>(protocol_.serving_epoch()));
}

void WorkerThreads::Attach(Answer answer) {
  {
    absl::MutexLock lock(&mutex_);
    answer_ = std::move(answer);
  }
  Tell([](P& protocol) { protocol.OnAttached(); });
}

void WorkerThreads::Detach() {
  Tell([](P& protocol) { protocol.OnDetached(); });
  absl::MutexLock lock(&mutex_);
  answer_ = nullptr;
}

absl::Status WorkerThreads::Post(v1::AttachResponse message) {
  absl::Status status;
  Tell([&](P& protocol) { status = protocol.OnMessage(std::move(message)); });
  return status;
}

uint64_t WorkerThreads::serving_epoch() const {
  absl::MutexLock lock(&mutex_);
  return protocol_.serving_epoch();
}

uint64_t WorkerThreads::last_served_epoch() const {
  absl::MutexLock lock(&mutex_);
  return protocol_.last_served_epoch();
}

bool WorkerThreads::WaitUntilOutOfStep(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto out = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !protocol_.in_step(); };
  return mutex_.AwaitWithTimeout(absl::Condition(&out), timeout);
}

v1::Heartbeat WorkerThreads::heartbeat() const {
  absl::MutexLock lock(&mutex_);
  v1::Heartbeat beat;
  const auto member = members_.find(protocol_.serving_epoch());
  if (member == members_.end()) return beat;
  const ExchangeProgress progress = member->second->progress();
  beat.set_epoch(member->first);
  beat.set_phase(progress.phase);
  beat.set_waited_ms(static_cast<uint32_t>(
      std::clamp<int64_t>(absl::ToInt64Milliseconds(progress.waited), 0, std::numeric_limits<int32_t>::max())));
  for (const int rank : progress.waiting_for) beat.add_waiting_for(static_cast<uint32_t>(rank));
  return beat;
}

void WorkerThreads::CarryOut(P::Order order, std::vector<Member>* abandoned) {
  const auto queue = [](BoundedQueue<Task>& tasks, P::Order& order, Member member) {
    CHECK(tasks.TryPush({std::move(order), std::move(member)})) << "orders that were not waited for";
  };
  if (const auto* open = std::get_if<P::OpenExchange>(&order)) {
    queue(set_ups_, order, members_[open->epoch] = std::make_shared<EpochMember>(&shared_, *open));
  } else if (const auto* connect = std::get_if<P::ConnectExchange>(&order)) {
    queue(set_ups_, order, members_.at(connect->epoch));
  } else if (const auto* begin = std::get_if<P::BeginEpoch>(&order)) {
    queue(steps_, order, members_.at(begin->begin.epoch()));
  } else if (const auto* run = std::get_if<P::RunStep>(&order)) {
    queue(steps_, order, members_.at(run->plan.epoch()));
  } else if (std::holds_alternative<P::ForgetSequences>(order)) {
    queue(steps_, order, nullptr);
  } else if (const auto* abandon = std::get_if<P::AbandonExchange>(&order)) {
    const auto member = members_.find(abandon->epoch);
    member->second->Abandon(abandon->reason);
    abandoned->push_back(std::move(member->second));
    members_.erase(member);
  } else {
    Send(std::move(std::get<P::Answer>(order).message));
  }
}

void WorkerThreads::Send(v1::AttachRequest message) {
  if (message.has_fault()) {
    const v1::Fault& fault = message.fault();
    spdlog::warn("epoch {}, step {}: {}", fault.epoch(), fault.step(), fault.message());
    probe_->faults.Add();
  }
  if (answer_) answer_(std::move(message));
}

void WorkerThreads::Do(const Task& task) {
  EpochMember* const member = task.member.get();
  if (const auto* open = std::get_if<P::OpenExchange>(&task.order)) {
    const absl::StatusOr<std::string> address = member->Open();
    Tell([&](P& protocol) { protocol.OnOpened(open->epoch, address); });
  } else if (const auto* connect = std::get_if<P::ConnectExchange>(&task.order)) {
    const absl::Status status = member->Connect(connect->configure);
    if (!status.ok()) GiveUpUnless(shared_.check_device);
    Tell([&](P& protocol) { protocol.OnConnected(connect->epoch, status, member->suspects()); });
  } else if (const auto* begin = std::get_if<P::BeginEpoch>(&task.order)) {
    const std::vector<uint64_t> missing = runner_->Begin(begin->begin);
    spdlog::info("epoch {} begins: {} sequences go on here, {} are missing", begin->begin.epoch(),
                 runner_->sequences().size(), missing.size());
    ReportSequences();
    Tell([&](P& protocol) { protocol.OnBegun(begin->begin.epoch(), missing); });
  } else {
    runner_->Clear();
    ReportSequences();
  }
}

void WorkerThreads::Compute() {
  for (;;) {
    std::optional<Task> task = NextStep();
    if (!task && running_.empty()) return;  // closed
    if (!task) {
      FinishStep();
    } else if (std::holds_alternative<P::RunStep>(task->order)) {
      while (!running_.empty() && !CanStart(*task)) FinishStep();
      StartStep(*std::move(task));
    } else {
      Do(*task);
    }
  }
}

// By WorkerProtocol's promise nothing but steps of the same epoch comes while one runs.
std::optional<WorkerThreads::Task> WorkerThreads::NextStep() {
  if (running_.empty()) return steps_.Pop();
  if (running_.size() == runner_->steps_at_once()) return std::nullopt;
  while (!runner_->Drawn()) {
    if (std::optional<Task> task = steps_.Pop(kLook)) return task;
  }
  return steps_.TryPop();
}

bool WorkerThreads::CanStart(const Task& task) const {
  const v1::StepPlan& plan = std::get<P::RunStep>(task.order).plan;
  return !task.member->abandoned() && task.member->experts().CanBeginAhead(static_cast<int>(plan.rows_max())) &&
         runner_->CanStart(plan);
}

void WorkerThreads::StartStep(Task task) {
  v1::StepPlan& plan = std::get<P::RunStep>(task.order).plan;
  // The step before has failed, or the epoch is over in another way.
  if (running_.empty() && task.member->abandoned()) {
    return Tell([&](P& protocol) {
      protocol.OnStepRan(plan.epoch(), absl::AbortedError("the epoch is over"), task.member->suspects());
    });
  }
  if (!running_.empty()) probe_->steps_ahead.Add();
  Running& step = running_.emplace_back(Running{std::move(plan), std::move(task.member), absl::Now()});
  EpochExperts& experts = step.member->experts();
  experts.BeginStep(step.plan.step(), static_cast<int>(step.plan.rows_max()));
  runner_->Start(step.plan, experts.runner());
}

void WorkerThreads::FinishStep() {
  absl::StatusOr<v1::StepDone> done = runner_->Finish();
  const Running step = std::move(running_.front());
  running_.pop_front();
  const absl::Time now = absl::Now();
  if (!running_.empty()) running_.front().begun = now;
  if (done.ok()) {
    done->set_step_us(static_cast<uint64_t>(absl::ToInt64Microseconds(now - step.begun)));
    EpochExperts& experts = step.member->experts();
    done->set_exchange_us(static_cast<uint64_t>(absl::ToInt64Microseconds(experts.TakeExchangeTime())));
    for (const uint64_t rows : experts.TakeExpertRows()) done->add_expert_rows(rows);
    probe_->steps_run_again.Add(experts.TakeRunsAgain());
    probe_->StepRan(step.plan, *done);
    ReportSequences();
  }
  const std::vector<int> suspects = step.member->suspects();
  if (!done.ok() && running_.empty() && shared_.recover) {
    step.member->Abandon("a step has failed");  // what a device still does of it may wait for peers
    GiveUpUnless(shared_.recover);
  }
  Tell([&](P& protocol) { protocol.OnStepRan(step.plan.epoch(), std::move(done), suspects); });
}

void WorkerThreads::GiveUpUnless(const std::function<absl::Status()>& works) const {
  if (!works) return;
  if (const absl::Status status = works(); !status.ok()) shared_.give_up(status);
}

void WorkerThreads::ReportSequences() {
  probe_->sequences.Set(runner_->sequences().size());
  probe_->kv_blocks_used.Set(runner_->sequences().blocks().used());
  probe_->snapshots.Set(runner_->sequences().snapshots().size());
  probe_->snapshot_bytes.Set(static_cast<double>(static_cast<uint64_t>(runner_->sequences().snapshots().size()) *
                                                 ConvCopyBytes(*shared_.config)));
}

}  // namespace braid
