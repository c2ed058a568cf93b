#include "router/router_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/status.h"
#include "router/validate.h"

namespace braid {
namespace {

Scheduler::Limits LimitsOf(const RouterOptions& options) {
  return {.step_tokens = options.step_tokens,
          .chunk_tokens = options.chunk_tokens,
          .sequences_max = options.sequences_max,
          .queue_max = options.queue_max};
}

Group GroupOf(Epoch epoch, const std::vector<Membership::Member>& members) {
  std::vector<Group::Worker> workers;
  for (const Membership::Member& member : members) {
    workers.push_back({.id = member.id,
                       .kv_blocks_total = member.hello.kv_blocks(),
                       .sequences_max = static_cast<int>(member.hello.sequences_max()),
                       .step_tokens_max = static_cast<int>(member.hello.step_tokens_max())});
  }
  return Group(epoch, members.front().hello.kv_block_tokens(), std::move(workers));
}

}  // namespace

RouterCore::RouterCore(const RouterOptions& options, Epoch before, RouterProbe* probe)
    : options_(options), probe_(probe), membership_(options, before, &actions_), scheduler_(LimitsOf(options)) {
  CHECK_OK(CheckOptions(options));
}

void RouterCore::OnGenerate(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time now) {
  absl::Status status = CheckAdmissible(request);
  if (!status.ok()) {
    probe_->refused.Add();
    const bool retry = absl::IsUnavailable(status);
    actions_.push_back(EndSequence{id, std::move(status), retry ? kRetryWhenNotReady : absl::ZeroDuration()});
    return;
  }
  auto sequence = std::make_unique<Sequence>(id, request, now);
  if (std::optional<v1::SequenceFinished::Reason> reason = sequence->Finished()) {
    // The earlier call was cut between its last token and its end.
    Accept(*sequence);
    Finish(id, *reason);
    return;
  }
  status = scheduler_.Enqueue(std::move(sequence));
  if (!status.ok()) {
    probe_->refused.Add();
    actions_.push_back(EndSequence{id, std::move(status), kRetryWhenFull});
    return;
  }
  Admit(now);  // at once, so that only those without memory stand in the queue
}

void RouterCore::OnCancel(SequenceId id) {
  if (scheduler_.Remove(id) != nullptr) probe_->cancelled.Add();
}

void RouterCore::OnWorkerOpened(WorkerId worker, absl::Time now) {
  absl::Status status =
      stopped_ ? absl::UnavailableError("the router is shutting down") : membership_.OnOpened(worker, now);
  if (!status.ok()) actions_.push_back(CloseWorker{worker, std::move(status)});
}

void RouterCore::OnWorkerMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now) {
  if (!membership_.attached(worker)) return;
  membership_.OnHeard(worker, now);
  absl::Status status = Dispatch(worker, message, now);
  if (!status.ok()) membership_.Close(worker, std::move(status));
  FollowEpoch();
}

void RouterCore::OnWorkerLost(WorkerId worker) {
  membership_.OnLost(worker);
  FollowEpoch();
}

void RouterCore::Drain() {
  draining_ = true;
  for (SequenceId id : scheduler_.Ids()) {
    if (!scheduler_.Find(id)->accepted) {
      Fail(id, absl::UnavailableError("the router is draining; try another"), kRetryWhenNotReady);
    }
  }
}

void RouterCore::Stop(const absl::Status& status) {
  draining_ = stopped_ = true;
  for (SequenceId id : scheduler_.Ids()) Fail(id, status, kRetryWhenNotReady);
  membership_.CloseAll(status);
  FollowEpoch();
}

void RouterCore::Advance(absl::Time now) {
  if (!step_) membership_.ReleaseLeaving();
  GiveUpLateStep(now);
  membership_.Advance(now);
  FollowEpoch();
  if (scheduler_.group() != nullptr) {
    Admit(now);
    IssueStep(now);
  }
  UpdateGauges();
}

std::vector<Action> RouterCore::TakeActions() { return std::exchange(actions_, {}); }

std::string RouterCore::NotReady() const { return draining_ ? "draining" : membership_.NotReady(); }

void RouterCore::FillStatus(v1::GetStatusResponse* status) const {
  status->Clear();
  const Group* group = scheduler_.group();
  status->set_state(draining_          ? v1::GetStatusResponse::STATE_DRAINING
                    : group == nullptr ? v1::GetStatusResponse::STATE_LOADING
                                       : v1::GetStatusResponse::STATE_READY);
  status->set_detail(NotReady());
  status->set_sequences_running(static_cast<uint32_t>(scheduler_.running()));
  status->set_sequences_waiting(static_cast<uint32_t>(scheduler_.waiting()));
  if (group != nullptr) {
    status->set_model_digest(model_->model_digest());
    status->set_epoch(group->epoch().value);
    status->set_context_tokens_max(
        static_cast<uint32_t>(std::min<uint64_t>(model_->context_tokens_max(), group->tokens_max())));
    status->set_kv_blocks_used(group->kv_blocks_used());
    status->set_kv_blocks_total(group->kv_blocks_total());
  }
  for (const auto& [id, hello] : membership_.Attached()) {
    v1::WorkerInfo* info = status->add_workers();
    info->set_worker_id(id.value);
    info->set_kv_blocks_total(hello->kv_blocks());
    std::optional<int> rank = membership_.RankOf(id);
    if (!rank || group == nullptr) continue;
    info->set_in_epoch(true);
    info->set_sequences(static_cast<uint32_t>(group->worker(*rank).sequences));
    info->set_kv_blocks_used(group->worker(*rank).kv_blocks_used);
  }
}

absl::Status RouterCore::CheckAdmissible(const v1::GenerateSequenceRequest& request) const {
  if (draining_) return absl::UnavailableError("the router is draining; try another");
  const Group* group = scheduler_.group();
  if (group == nullptr) return absl::UnavailableError(absl::StrCat("no group is ready: ", membership_.NotReady()));
  return CheckRequest(request, {.context_tokens_max = model_->context_tokens_max(),
                                .vocab_size = model_->vocab_size(),
                                .kv_tokens_max = group->tokens_max()});
}

absl::Status RouterCore::Dispatch(WorkerId worker, const v1::AttachRequest& message, absl::Time now) {
  if (!message.has_hello() && !membership_.heard_hello(worker)) {
    return InvalidArgument("the first message must be hello");
  }
  switch (message.message_case()) {
    case v1::AttachRequest::kHello:
      return membership_.OnHello(worker, message.hello(), now);
    case v1::AttachRequest::kPrepared:
      return membership_.OnPrepared(worker, message.prepared());
    case v1::AttachRequest::kConfigured:
      return membership_.OnConfigured(worker, message.configured());
    case v1::AttachRequest::kStepDone:
      return OnStepDone(worker, message.step_done(), now);
    case v1::AttachRequest::kFault:
      membership_.OnFault(worker, message.fault(), now);
      return absl::OkStatus();
    case v1::AttachRequest::kHeartbeat:
      return absl::OkStatus();
    case v1::AttachRequest::kLeaving:
      membership_.OnLeaving(worker);
      return absl::OkStatus();
    case v1::AttachRequest::MESSAGE_NOT_SET:
      return InvalidArgument("a message without content, or of a newer version");
  }
  return absl::OkStatus();
}

absl::Status RouterCore::OnStepDone(WorkerId worker, const v1::StepDone& done, absl::Time now) {
  std::optional<int> rank = membership_.RankOf(worker);
  if (!rank || Epoch(done.epoch()) != membership_.epoch()) return absl::OkStatus();  // of an epoch that is over
  if (!step_) return InvalidArgument("step_done, but no step is in flight");
  RETURN_IF_ERROR(CheckScores(done));
  RETURN_IF_ERROR(step_->OnDone(*rank, done, membership_.serving()[static_cast<size_t>(*rank)].hello));
  if (step_->complete()) Commit(now);
  return absl::OkStatus();
}

void RouterCore::FollowEpoch() {
  const bool serving = !membership_.serving().empty();
  const Group* group = scheduler_.group();
  if (group != nullptr && (!serving || group->epoch() != membership_.epoch())) LoseEpoch();
  if (serving && scheduler_.group() == nullptr) BeginEpoch();
}

void RouterCore::LoseEpoch() {
  std::vector<SequenceId> in_step;
  for (int rank = 0; step_ && rank < step_->size(); ++rank) {
    for (const Step::Chunk& chunk : step_->chunks(rank)) in_step.push_back(chunk.sequence);
  }
  step_.reset();
  probe_->epochs_lost.Add();
  probe_->sequences_requeued.Add(scheduler_.EndEpoch());
  for (SequenceId id : in_step) {
    Sequence* sequence = scheduler_.Find(id);
    if (sequence == nullptr || ++sequence->failures < kFailuresMax) continue;
    Fail(id, absl::InternalError(absl::StrCat("the request was running at ", kFailuresMax,
                                              " failures of workers and is not tried again")));
  }
}

void RouterCore::BeginEpoch() {
  const v1::Hello& hello = membership_.serving().front().hello;
  Group group = GroupOf(membership_.epoch(), membership_.serving());
  const bool same_model = !model_ || model_->model_digest() == hello.model_digest();
  for (SequenceId id : scheduler_.Ids()) {
    if (!same_model) {
      Fail(id, absl::FailedPreconditionError("the workers now serve another model"));
    } else if (scheduler_.Find(id)->tokens_max() > group.tokens_max()) {
      Fail(id, absl::UnavailableError("no worker that is left has memory for this sequence"), kRetryWhenNotReady);
    }
  }
  model_ = hello;
  step_number_ = 0;
  scheduler_.StartEpoch(std::move(group));
}

void RouterCore::Admit(absl::Time now) {
  for (Sequence* sequence : scheduler_.Admit()) {
    if (sequence->accepted) continue;
    probe_->queue_seconds.Observe(absl::ToDoubleSeconds(now - sequence->arrived()));
    Accept(*sequence);
  }
}

void RouterCore::IssueStep(absl::Time now) {
  if (step_) return;
  std::optional<std::vector<v1::StepPlan>> plans = scheduler_.PlanStep();
  if (!plans) return;
  step_.emplace(++step_number_, *plans, now);
  for (size_t rank = 0; rank < plans->size(); ++rank) {
    SendToWorker send{membership_.serving()[rank].id, {}};
    v1::StepPlan& plan = *send.message.mutable_step_plan();
    plan = std::move((*plans)[rank]);
    plan.set_epoch(membership_.epoch().value);
    plan.set_step(step_number_);
    actions_.push_back(std::move(send));
  }
}

void RouterCore::GiveUpLateStep(absl::Time now) {
  if (!step_ || now - step_->issued() < options_.step_timeout) return;
  std::vector<WorkerId> late;
  for (int rank = 0; rank < step_->size(); ++rank) {
    if (!step_->answered(rank)) late.push_back(membership_.serving()[static_cast<size_t>(rank)].id);
  }
  membership_.Evict(late, absl::StrCat("step ", step_->number()));
}

void RouterCore::Commit(absl::Time now) {
  const Step step = *std::exchange(step_, std::nullopt);
  membership_.OnProgress();
  Observe(step, now);
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      if (Sequence* sequence = scheduler_.Find(chunk.sequence)) sequence->OnComputed(chunk.rows);
    }
    for (const v1::PromptScores& scores : step.done(rank).prompt_scores()) DeliverScores(scores);
    for (const v1::Sampled& sampled : step.done(rank).sampled()) DeliverToken(sampled);
  }
}

absl::Status RouterCore::CheckScores(const v1::StepDone& done) const {
  for (const v1::PromptScores& scores : done.prompt_scores()) {
    const Sequence* sequence = scheduler_.Find(SequenceId(scores.sequence()));
    if (sequence == nullptr) continue;  // cancelled
    const uint64_t prompt_tokens = static_cast<uint64_t>(sequence->prompt_tokens());
    const uint64_t begin = scores.position(), end = begin + static_cast<uint64_t>(scores.logprobs_size());
    if (!sequence->want_prompt_logprobs() || begin < 1 || end > prompt_tokens ||
        begin > static_cast<uint64_t>(sequence->scores_delivered())) {
      return InvalidArgument(absl::StrCat("step_done.prompt_scores [", begin, ", ", end, ") of sequence ",
                                          scores.sequence(), " were not asked for, or leave a gap"));
    }
    for (int i = 0; i < scores.logprobs_size(); ++i) {
      if (scores.logprobs(i).token() == sequence->log()[begin + static_cast<uint64_t>(i)]) continue;
      return InvalidArgument(absl::StrCat("step_done.prompt_scores of sequence ", scores.sequence(), " at ",
                                          begin + static_cast<uint64_t>(i), " scores another token than the prompt's"));
    }
  }
  return absl::OkStatus();
}

void RouterCore::DeliverScores(const v1::PromptScores& scores) {
  Sequence* sequence = scheduler_.Find(SequenceId(scores.sequence()));
  if (sequence == nullptr) return;
  // After the loss of an epoch the worker scores the prompt from its beginning again.
  const int skip = sequence->scores_delivered() - static_cast<int>(scores.position());
  if (skip >= scores.logprobs_size()) return;
  v1::GenerateSequenceResponse event;
  v1::PromptLogprobs* logprobs = event.mutable_prompt_logprobs();
  logprobs->set_position(static_cast<uint32_t>(sequence->scores_delivered()));
  for (int i = skip; i < scores.logprobs_size(); ++i) *logprobs->add_logprobs() = scores.logprobs(i);
  sequence->OnScoresDelivered(sequence->scores_delivered() + logprobs->logprobs_size());
  Say(sequence->id(), std::move(event));
}

void RouterCore::DeliverToken(const v1::Sampled& sampled) {
  const SequenceId id(sampled.sequence());
  Sequence* sequence = scheduler_.Find(id);
  if (sequence == nullptr) return;  // cancelled while the step was in flight
  if (!sampled.error().empty()) {
    return Fail(id, absl::InternalError(absl::StrCat("the model could not go on: ", sampled.error().substr(0, 200))));
  }
  if (sequence->scores_missing()) {
    return Fail(id, absl::InternalError("the worker did not report all log probabilities of the prompt"));
  }
  v1::GenerateSequenceResponse event;
  v1::SequenceTokens* tokens = event.mutable_tokens();
  tokens->set_position(static_cast<uint32_t>(sequence->answer_tokens()));
  tokens->add_tokens(sampled.token().token());
  if (sequence->want_logprobs()) *tokens->add_logprobs() = sampled.token();
  sequence->Append(sampled.token().token());
  Say(id, std::move(event));
  if (std::optional<v1::SequenceFinished::Reason> reason = sequence->Finished()) Finish(id, *reason);
}

void RouterCore::Observe(const Step& step, absl::Time now) {
  probe_->steps.Add();
  probe_->step_seconds.Observe(absl::ToDoubleSeconds(now - step.issued()));
  probe_->step_rows.Observe(step.rows());
  int decode_rows = 0;
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      const Sequence* sequence = scheduler_.Find(chunk.sequence);
      if (sequence != nullptr && sequence->decoding()) decode_rows += chunk.rows;
    }
    const v1::StepDone& done = step.done(rank);
    probe_->worker_step_seconds.Add(static_cast<double>(done.step_us()) * 1e-6);
    probe_->worker_exchange_seconds.Add(static_cast<double>(done.exchange_us()) * 1e-6);
    imbalance_.Add(done.expert_rows());
  }
  probe_->decode_rows.Add(decode_rows);
  probe_->prefill_rows.Add(step.rows() - decode_rows);
  double ratio = 0;
  if (imbalance_.EndStep(&ratio)) probe_->expert_imbalance.Set(ratio);
}

void RouterCore::Say(SequenceId id, v1::GenerateSequenceResponse event) {
  actions_.push_back(SendToSequence{id, std::move(event)});
}

void RouterCore::Accept(Sequence& sequence) {
  sequence.accepted = true;
  v1::GenerateSequenceResponse event;
  event.mutable_accepted();
  Say(sequence.id(), std::move(event));
}

void RouterCore::Finish(SequenceId id, v1::SequenceFinished::Reason reason) {
  v1::GenerateSequenceResponse event;
  event.mutable_finished()->set_reason(reason);
  Say(id, std::move(event));
  actions_.push_back(EndSequence{id, absl::OkStatus(), absl::ZeroDuration()});
  scheduler_.Remove(id);
  (reason == v1::SequenceFinished::REASON_STOP ? probe_->finished_stop : probe_->finished_length).Add();
}

void RouterCore::Fail(SequenceId id, absl::Status status, absl::Duration retry_after) {
  CHECK(!status.ok());
  scheduler_.Remove(id);
  actions_.push_back(EndSequence{id, std::move(status), retry_after});
  probe_->failed.Add();
}

void RouterCore::UpdateGauges() {
  const Group* group = scheduler_.group();
  probe_->sequences_running.Set(scheduler_.running());
  probe_->sequences_waiting.Set(scheduler_.waiting());
  probe_->kv_blocks_used.Set(group == nullptr ? 0 : static_cast<double>(group->kv_blocks_used()));
  probe_->kv_blocks_total.Set(group == nullptr ? 0 : static_cast<double>(group->kv_blocks_total()));
  probe_->ready.Set(NotReady().empty() ? 1 : 0);
  probe_->workers_wanted.Set(options_.workers);
  probe_->workers_attached.Set(membership_.attached_count());
  probe_->epoch.Set(group == nullptr ? 0 : static_cast<double>(group->epoch().value));
}

}  // namespace braid
