#include "tests/simulation/sim_worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "base/status.h"
#include "expert_worker/dispatch.h"
#include "expert_worker/expert_parallel.h"

namespace braid::simulation {
namespace {

constexpr int kWorkerEnd = 0;
// As in expert_worker/router_link.cc.
constexpr absl::Duration kPauseMin = absl::Milliseconds(100), kPauseMax = absl::Seconds(2);
constexpr absl::Duration kLeaveGrace = absl::Seconds(30);  // then it goes without the router's leave
constexpr absl::Duration kHeartbeat = absl::Milliseconds(500), kHeartbeatTimeout = absl::Seconds(5);

}  // namespace

SimWorker::SimWorker(Process* process, DataPlane* plane, ThreadPool* pool, const Options& options, ReachRouter reach,
                     std::function<void()> poisoned)
    : process_(process),
      world_(process->world()),
      network_(plane->network()),
      options_(options),
      reach_(std::move(reach)),
      poisoned_(std::move(poisoned)),
      states_(ToyModel::Get().config(),
              {.blocks = options.kv_blocks, .sequences = options.sequences_max, .snapshots = options.snapshots_max}),
      forward_(&states_, {.pause = [this](int rows) { Compute(rows); },
                          .poisoned =
                              [this] {
                                poisoned_();
                                steps_.Wait(absl::InfiniteFuture());
                              }}),
      ffn_(&ToyModel::Get().config(), &ToyModel::Get().tensors(), pool),
      exchanges_(plane, process),
      shared_(
          {.config = &ToyModel::Get().config(),
           .exchanges = &exchanges_,
           .make_experts = ExpertParallelMaker(&ToyModel::Get().config(), &ffn_, pool),
           .message_bytes_max = MoeMessageBytesMax(options.step_tokens_max, ToyModel::Get().config().experts_per_token,
                                                   ToyModel::Get().config().model_dim),
           .load_experts = [this](std::span<const ExpertRanks>, int,
                                  const std::function<bool()>& stop) -> absl::StatusOr<ExpertHold> {
             RETURN_IF_ERROR(LoadExperts(stop));
             return ExpertHold();
           },
           .step_tokens_max = options.step_tokens_max,
           .exchange_timeout = options.exchange_timeout}),
      runner_(&ToyModel::Get().config(), &states_, pool,
              [this](std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
                return forward_.Run(chunks, experts, logits);
              },
              {.step_tokens_max = options.step_tokens_max}),
      protocol_(ToyModel::Get().config().layer_count(), ToyModel::Get().config().experts),
      pause_(kPauseMin),
      set_up_(process),
      steps_(process) {
  process_->After(world_->random().Between(absl::ZeroDuration(), absl::Milliseconds(50)), [this] { Attach(); });
}

SimWorker::~SimWorker() {
  if (connection_) connection_->Break(kWorkerEnd);
}

void SimWorker::Leave(std::function<void()> left) {
  left_ = std::move(left);
  if (!welcomed_) return left_();
  process_->After(kLeaveGrace, [this] { left_(); });
  v1::AttachRequest message;
  message.mutable_leaving();
  Send(std::move(message));
}

void SimWorker::Attach() {
  reach_(
      [this](std::shared_ptr<Connection> connection, SimRouter* router) { OnReached(std::move(connection), router); });
}

void SimWorker::OnReached(std::shared_ptr<Connection> connection, SimRouter* router) {
  if (connection == nullptr) {
    pause_ = std::min(pause_ * 2, kPauseMax);
    process_->After(pause_, [this] { Attach(); });
    return;
  }
  connection_ = std::move(connection);
  router_ = router;
  ++attachment_;
  welcomed_ = false;
  stopped_.clear();
  past_ = {};
  heartbeat_ = kHeartbeat;
  heartbeat_timeout_ = kHeartbeatTimeout;
  heard_ = world_->now();
  connection_->SetOnEnd(kWorkerEnd, [this, attachment = attachment_](Connection::Ending) {
    if (attachment == attachment_) OnStreamEnded();
  });
  connection_->Send(kWorkerEnd, [this, attachment = attachment_, router, connection = connection_] {
    router->OnWorker(connection, [this, attachment](const v1::AttachResponse& message) {
      if (attachment == attachment_ && connection_ != nullptr) OnMessage(message);
    });
  });
  v1::AttachRequest message;
  v1::Hello* const hello = message.mutable_hello();
  const ModelConfig& config = ToyModel::Get().config();
  hello->set_name(options_.name);
  hello->set_model_digest(ToyModel::kDigest);
  hello->set_kv_blocks(static_cast<uint64_t>(options_.kv_blocks));
  hello->set_kv_block_tokens(kKvBlockTokens);
  hello->set_sequences_max(static_cast<uint32_t>(options_.sequences_max));
  hello->set_step_tokens_max(static_cast<uint32_t>(options_.step_tokens_max));
  hello->set_kv_type("bf16");
  hello->set_arithmetic("toy");
  hello->set_exchange("ucx");
  hello->set_expert_count(static_cast<uint32_t>(config.experts));
  hello->set_context_tokens_max(static_cast<uint32_t>(config.context_tokens_max));
  hello->set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  hello->set_moe_layers(static_cast<uint32_t>(config.layer_count()));
  hello->set_expert_slots(static_cast<uint32_t>(options_.expert_slots));
  hello->set_group(options_.group);
  hello->set_host(options_.host);
  hello->set_snapshots_max(static_cast<uint32_t>(options_.snapshots_max));
  hello->set_ranks_max(static_cast<uint32_t>(options_.ranks_max));
  hello->set_epoch(protocol_.last_served_epoch());
  Send(std::move(message));
  protocol_.OnAttached();
  CarryOut();
  Beat();
  WatchSilence();
}

void SimWorker::Send(v1::AttachRequest message) {
  if (connection_ == nullptr) return;
  if (network_->stale_chance() > 0) {
    const bool recall = world_->random().Chance(network_->stale_chance());
    const v1::AttachRequest* const old = recall ? past_.Recall(begun_epoch_, world_->random()) : nullptr;
    if (old != nullptr) {
      world_->Count("stale messages to routers");
      connection_->Send(kWorkerEnd, [router = router_, connection = connection_, message = *old] {
        router->OnWorkerSpoke(connection, message);
      });
    }
    past_.Remember(message);
  }
  connection_->Send(kWorkerEnd, [router = router_, connection = connection_, message = std::move(message)] {
    router->OnWorkerSpoke(connection, message);
  });
}

void SimWorker::OnMessage(const v1::AttachResponse& message) {
  heard_ = world_->now();
  if (message.has_welcome()) {
    welcomed_ = true;
    heartbeat_ = absl::Milliseconds(message.welcome().heartbeat_ms());
    heartbeat_timeout_ = absl::Milliseconds(message.welcome().heartbeat_timeout_ms());
    pause_ = kPauseMin;
    Beat();  // from now on in the router's rhythm
    return;
  }
  if (message.has_prepare() && options_.ranks_max > 0 && message.prepare().size() > uint32_t(options_.ranks_max)) {
    world_->Fail(fmt::format("{} has no memory for the {} ranks of epoch {}", options_.name, message.prepare().size(),
                             message.prepare().epoch()));
  }
  if (message.has_stop()) stopped_.insert(message.stop().epoch());
  const absl::Status status = protocol_.OnMessage(message);
  if (message.has_begin() && protocol_.serving_epoch() == message.begin().epoch()) {
    if (message.begin().epoch() <= begun_epoch_) {
      world_->Fail(
          fmt::format("{} begins epoch {} after epoch {}", options_.name, message.begin().epoch(), begun_epoch_));
    }
    begun_epoch_ = message.begin().epoch();
  }
  if (!status.ok()) {
    world_->Fail(fmt::format("{} finds its router out of its mind: {}", options_.name, status.ToString()));
  }
  CarryOut();
}

void SimWorker::OnStreamEnded() {
  SIM_LOG(world_, process_->name(), "has lost the router");
  Detach(false);
}

void SimWorker::Detach(bool tell) {
  if (tell) connection_->Break(kWorkerEnd);
  connection_ = nullptr;
  router_ = nullptr;
  ++attachment_;
  const bool was_welcomed = std::exchange(welcomed_, false);
  protocol_.OnDetached();
  CarryOut();
  if (left_) return left_();
  pause_ = was_welcomed ? kPauseMin : std::min(pause_ * 2, kPauseMax);
  process_->After(pause_, [this] { Attach(); });
}

void SimWorker::Beat() {
  process_->After(heartbeat_, [this, rhythm = ++rhythm_] {
    if (rhythm != rhythm_ || connection_ == nullptr) return;
    v1::AttachRequest message;
    v1::Heartbeat* const beat = message.mutable_heartbeat();
    if (const auto member = members_.find(protocol_.serving_epoch()); member != members_.end()) {
      const ExchangeProgress progress = member->second->progress();
      beat->set_epoch(member->first);
      beat->set_phase(progress.phase);
      beat->set_waited_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(progress.waited)));
      for (const int rank : progress.waiting_for) beat->add_waiting_for(static_cast<uint32_t>(rank));
    }
    Send(std::move(message));
    Beat();
  });
}

void SimWorker::WatchSilence() {
  process_->After(heartbeat_timeout_ / 8, [this, attachment = attachment_] {
    if (attachment != attachment_ || connection_ == nullptr) return;
    if (world_->now() - heard_ < heartbeat_timeout_) return WatchSilence();
    SIM_LOG(world_, process_->name(), "gives up a silent router");
    Detach(true);
  });
}

void SimWorker::CarryOut() {
  for (WorkerProtocol::Order& order : protocol_.TakeOrders()) {
    std::visit([this](auto& what) { Do(what); }, order);
  }
}

void SimWorker::Report(std::function<void()> result) {
  process_->After(absl::ZeroDuration(), [this, result = std::move(result)] {
    result();
    CarryOut();
  });
}

void SimWorker::Do(WorkerProtocol::OpenExchange& order) {
  const Member member = members_[order.epoch] = std::make_shared<EpochMember>(&shared_, order);
  set_up_.Start([this, member, epoch = order.epoch] {
    set_up_.Sleep(world_->random().Between(absl::ZeroDuration(), absl::Milliseconds(20)));
    Report([this, epoch, address = member->Open()] { protocol_.OnOpened(epoch, address); });
  });
}

void SimWorker::Do(WorkerProtocol::ConnectExchange& order) {
  set_up_.Start([this, member = members_.at(order.epoch), order] {
    const absl::Status status = member->Connect(order.configure);
    Report([this, epoch = order.epoch, status, suspects = member->suspects()] {
      protocol_.OnConnected(epoch, status, suspects);
    });
  });
}

void SimWorker::Do(WorkerProtocol::AbandonExchange& order) {
  const auto member = members_.find(order.epoch);
  member->second->Abandon(order.reason);
  members_.erase(member);  // it goes when the last one that uses it lets go of it
}

void SimWorker::Do(WorkerProtocol::BeginEpoch& order) {
  last_step_ = 0;
  for (const v1::SequenceKept& kept : order.begin.keep()) {
    for (const v1::StepPlan& plan : last_plans_) {
      for (const v1::SequenceChunk& chunk : plan.chunks()) {
        if (chunk.sequence() != kept.sequence()) continue;
        const bool newest = plan.step() == last_plans_.back().step();
        if (chunk.follows() && newest && chunk.position() > kept.length()) {
          world_->Count("sequences rolled back by two steps");
        }
        if (chunk.position() != kept.length()) continue;
        world_->Count("sequences rolled back");
        if (chunk.drafts() > 0) world_->Count("sequences rolled back with drafts");
        if (chunk.tokens_size() > kConvColumns - 2) world_->Count("sequences rolled back beyond the conv ring");
      }
    }
  }
  last_plans_.clear();
  steps_.Start([this, begin = order.begin] {
    const std::vector<uint64_t> missing = runner_.Begin(begin);
    world_->Count("sequences missing at a begin", static_cast<int64_t>(missing.size()));
    Report([this, epoch = begin.epoch(), missing] { protocol_.OnBegun(epoch, missing); });
  });
}

void SimWorker::Do(WorkerProtocol::RunStep& order) {
  CheckStep(order.plan);
  if (last_plans_.size() == 2) last_plans_.pop_front();
  last_plans_.push_back(order.plan);
  steps_.Start([this, member = members_.at(order.plan.epoch()), plan = order.plan] {
    member->experts().BeginStep(plan.step(), static_cast<int>(plan.rows_max()));
    absl::StatusOr<v1::StepDone> done = runner_.Run(plan, member->experts().runner());
    if (done.ok()) {
      for (const uint64_t rows : member->experts().TakeExpertRows()) done->add_expert_rows(rows);
    }
    world_->Count(done.ok() ? "steps run by a worker" : "steps failed at a worker");
    if (!done.ok()) failed_epoch_ = plan.epoch();
    Report([this, epoch = plan.epoch(), done = std::move(done), suspects = member->suspects()] {
      protocol_.OnStepRan(epoch, done, suspects);
    });
  });
}

void SimWorker::Do(WorkerProtocol::ForgetSequences&) { runner_.Clear(); }

absl::Status SimWorker::LoadExperts(const std::function<bool()>& stop) {
  set_up_.Sleep(options_.load_time * world_->random().Unit());
  return stop() ? absl::AbortedError("the set-up was abandoned") : absl::OkStatus();
}

void SimWorker::Do(WorkerProtocol::Answer& order) {
  if (order.message.has_fault()) OnFault(order.message.fault());
  Send(std::move(order.message));
}

// Peers die, are cut off, or speak out of turn. But what the router says is right.
void SimWorker::OnFault(const v1::Fault& fault) {
  world_->Count("faults reported");
  for (const char* blame : {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "FAILED_PRECONDITION"}) {
    if (fault.message().rfind(blame, 0) != 0) continue;
    world_->Fail(fmt::format("{} is told nonsense, epoch {}, step {}: {}", options_.name, fault.epoch(), fault.step(),
                             fault.message()));
  }
}

void SimWorker::Compute(int rows) {
  const absl::Duration time = (options_.step_time + options_.row_time * rows) * slowness_;
  steps_.Sleep(time * (0.5 + world_->random().Unit()));
}

void SimWorker::CheckStep(const v1::StepPlan& plan) {
  if (plan.epoch() != begun_epoch_ || stopped_.contains(plan.epoch())) {
    world_->Fail(fmt::format("{} runs step {} of epoch {}, which is over", options_.name, plan.step(), plan.epoch()));
  }
  if (plan.epoch() == failed_epoch_) {
    world_->Fail(
        fmt::format("{} runs step {} of epoch {} behind one that failed", options_.name, plan.step(), plan.epoch()));
  }
  if (plan.step() != last_step_ + 1) {
    world_->Fail(fmt::format("{} runs step {} after step {}", options_.name, plan.step(), last_step_));
  }
  last_step_ = plan.step();
}

}  // namespace braid::simulation
