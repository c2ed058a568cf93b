#include "router/group_core.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/planted_bug.h"
#include "base/status.h"

namespace braid {
namespace {

// A rebalancing that makes the busiest worker this much less busy is worth its reading.
constexpr double kRebalanceGain = 0.1;
// A worker whose connection broke comes back within this.
constexpr absl::Duration kTrial = absl::Seconds(5);
// A plan is on its way to the workers for less than this.
constexpr absl::Duration kAheadMin = absl::Milliseconds(1);
// Steps do not take as long as they should. The share of that time by which a plan is sent earlier is such that one
// step in ten or so is done before.
constexpr double kAheadShareMin = 0.02, kAheadShareMax = 0.5;
constexpr double kShareIfTooLate = 1.25, kShareIfInTime = 0.98;

Group GroupOf(const Membership::View& view, const Membership& membership, bool prefix_cache) {
  std::vector<Group::Worker> workers;
  for (const Membership::Member& member : view.members) {
    workers.push_back({.id = member.id,
                       .kv_blocks_total = member.hello.kv_blocks(),
                       .sequences_max = static_cast<int>(member.hello.sequences_max()),
                       .step_tokens_max = static_cast<int>(member.hello.step_tokens_max()),
                       .snapshots_max = prefix_cache ? static_cast<int>(member.hello.snapshots_max()) : 0,
                       .draining = membership.leaving(member.id)});
  }
  return Group(view.epoch, view.members.front().hello.kv_block_tokens(), std::move(workers));
}

}  // namespace

void Accept(Sequence& sequence, std::vector<Action>* actions) {
  sequence.accepted = true;
  SendToSequence send{sequence.id(), {}};
  send.event.mutable_accepted()->set_cached_tokens(static_cast<uint32_t>(sequence.cached_tokens()));
  actions->push_back(std::move(send));
}

void Finish(SequenceId id, v1::SequenceFinished::Reason reason, RouterProbe* probe, std::vector<Action>* actions) {
  SendToSequence send{id, {}};
  send.event.mutable_finished()->set_reason(reason);
  actions->push_back(std::move(send));
  actions->push_back(EndSequence{id, absl::OkStatus(), absl::ZeroDuration()});
  (reason == v1::SequenceFinished::REASON_STOP ? probe->finished_stop : probe->finished_length).Add();
}

GroupCore::GroupCore(std::string name, const RouterOptions& options, Epoch* last_epoch, RouterProbe* probe,
                     std::vector<Action>* actions)
    : options_(options),
      probe_(probe),
      actions_(actions),
      membership_(std::move(name), options, last_epoch, actions),
      scheduler_({.step_tokens = options.step_tokens,
                  .chunk_tokens = options.chunk_tokens,
                  .sequences_max = options.sequences_max,
                  .drafts_max = options.draft_tokens_max,
                  .snapshot_tokens = options.snapshot_tokens}),
      links_(options.heartbeat_timeout) {}

void GroupCore::OnLeaving(WorkerId worker, absl::Time now) {
  membership_.OnLeaving(worker, now);
  Group* group = scheduler_.group();
  for (int rank = 0; group != nullptr && rank < group->size(); ++rank) {
    if (group->worker(rank).id == worker) group->SetDraining(rank);
  }
}

void GroupCore::OnLost(WorkerId worker, bool crashed, absl::Time now) {
  membership_.OnLost(worker, crashed, now);
  FollowLoss(now);
}

absl::Status GroupCore::OnMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now) {
  switch (message.message_case()) {
    case v1::AttachRequest::kPrepared:
      return membership_.OnPrepared(worker, message.prepared());
    case v1::AttachRequest::kConfigured:
      return membership_.OnConfigured(worker, message.configured());
    case v1::AttachRequest::kBegun:
      return OnBegun(worker, message.begun());
    case v1::AttachRequest::kStepDone:
      return OnStepDone(worker, message.step_done(), now);
    case v1::AttachRequest::kFault:
      membership_.OnFault(worker, message.fault(), now);
      FollowLoss(now);
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

void GroupCore::Advance(const Roster& roster, absl::Time now) {
  WatchLinks(roster, now);
  DrainLeaving(now);
  membership_.Advance(now, load_.rows());
  FollowLoss(now);
  if (membership_.ready() != nullptr && steps_.empty()) BeginEpoch(now);
}

std::vector<WorkerId> GroupCore::Late(absl::Time now) const {
  std::vector<WorkerId> late = membership_.LateToBegin(options_.step_timeout, now);
  if (steps_.empty() || now - steps_.front().begun() < options_.step_timeout) return late;
  for (int rank = 0; rank < steps_.front().size(); ++rank) {
    if (!steps_.front().answered(rank)) late.push_back(scheduler_.group()->worker(rank).id);
  }
  return late;
}

void GroupCore::GiveUpSequences() {
  for (auto& sequence : scheduler_.DisplaceAll()) displaced_.push_back(std::move(sequence));
}

std::optional<GroupCore::Fit> GroupCore::FitFor(const Sequence& sequence) const {
  if (scheduler_.group() == nullptr) return std::nullopt;
  const std::optional<int> owner = scheduler_.PickOwner(sequence);
  if (!owner) return std::nullopt;
  return Fit{scheduler_.running(), scheduler_.CachedTokens(sequence, *owner)};
}

bool GroupCore::CouldHold(const Sequence& sequence) const {
  const Group* group = scheduler_.group();
  return group != nullptr && sequence.tokens_max() <= group->tokens_max();
}

void GroupCore::Admit(std::unique_ptr<Sequence> sequence) {
  const std::optional<int> owner = scheduler_.PickOwner(*sequence);
  CHECK(owner);
  const Sequence& admitted = *sequence;
  scheduler_.Admit(std::move(sequence), *owner);
  probe_->prefix_lookups.Add();
  if (admitted.computed() == 0) return;
  probe_->prefix_hits.Add();
  probe_->prefix_hit_tokens.Add(admitted.computed());
}

absl::Status GroupCore::OnStepDone(WorkerId worker, const v1::StepDone& done, absl::Time now) {
  const Membership::View* view = membership_.serving();
  const std::optional<int> rank = view != nullptr ? view->RankOf(worker) : std::nullopt;
  const bool over = rank && Epoch(done.epoch()) != view->epoch;
  if (!rank || (over && !Planted(Bug::kRouterTakesAnyEpoch))) return absl::OkStatus();
  if (steps_.empty()) return InvalidArgument("step_done, but no step is in flight");
  RETURN_IF_ERROR(CheckScores(done));
  // A worker answers one after the other; the others may be a step behind it.
  const bool second = steps_.size() == 2 && steps_.front().answered(*rank);
  Step& step = second ? steps_.back() : steps_.front();
  RETURN_IF_ERROR(step.OnDone(*rank, done, view->members[static_cast<size_t>(*rank)].hello));
  while (!steps_.empty() && steps_.front().complete()) Commit(now);
  return absl::OkStatus();
}

absl::Status GroupCore::OnBegun(WorkerId worker, const v1::Begun& begun) {
  RETURN_IF_ERROR(membership_.OnBegun(worker, begun));
  const Membership::View* view = membership_.serving();
  if (view == nullptr || Epoch(begun.epoch()) != view->epoch) return absl::OkStatus();
  const std::optional<int> rank = view->RankOf(worker);
  std::vector<SequenceId> missing;
  for (uint64_t id : begun.missing()) {
    const Sequence* sequence = scheduler_.Find(SequenceId(id));
    if (Planted(Bug::kIgnoresMissing)) continue;
    if (sequence != nullptr && sequence->owner() == rank) missing.push_back(SequenceId(id));
  }
  for (auto& sequence : scheduler_.Displace(missing)) displaced_.push_back(std::move(sequence));
  return absl::OkStatus();
}

void GroupCore::FollowLoss(absl::Time now) {
  const std::optional<Membership::Loss> loss = membership_.TakeLoss();
  if (!loss) return;
  const std::deque<Step> steps = std::exchange(steps_, {});
  if (Planted(Bug::kForgetsSecondStepInFlight) && steps.size() == 2) steps_.push_back(steps.back());
  look_ahead_at_ = absl::InfiniteFuture();
  probe_->epochs_lost.Add();
  stopped_at_ = now;
  if (paused_at_ == absl::InfinitePast()) paused_at_ = now;
  links_.Reset();
  const Step* const step = steps.empty() ? nullptr : &steps.front();
  for (int rank = 0; Planted(Bug::kCountsRowsOfVoidStep) && step && rank < step->size(); ++rank) {
    for (const Step::Chunk& chunk : step->chunks(rank)) {
      if (Sequence* sequence = scheduler_.Find(chunk.sequence)) sequence->OnComputed(chunk.rows);
    }
  }
  const Epoch epoch = scheduler_.group() != nullptr ? scheduler_.group()->epoch() : Epoch();
  scheduler_.EndEpoch();
  if (step && *loss == Membership::Loss::kCrash) Suspect(steps, {epoch, membership_.crashed()}, now);
}

// A worker crashed while one of these steps ran. If just one of their sequences was there at a crash before, without
// having got past it since, that one is the cause, unless it turns out that one of the workers lives.
void GroupCore::Suspect(const std::deque<Step>& steps, const Suspicion::Crash& crash, absl::Time now) {
  std::map<SequenceId, std::pair<int, int>> runs;  // its first position and its rows over all steps
  for (const Step& step : steps) {
    for (int rank = 0; rank < step.size(); ++rank) {
      for (const Step::Chunk& chunk : step.chunks(rank)) {
        const auto [run, is_new] = runs.try_emplace(chunk.sequence, chunk.position, 0);
        run->second.second += chunk.sure_rows();
      }
    }
  }
  std::vector<Sequence*> serious;
  for (const auto& [id, run] : runs) {
    Sequence* sequence = scheduler_.Find(id);
    if (sequence == nullptr) continue;
    sequence->suspicion.OnCrash(run.first, run.second, crash);
    sequence->careful = true;
    if (sequence->suspicion.serious()) serious.push_back(sequence);
  }
  if (serious.size() != 1 && !(Planted(Bug::kQuarantinesBystanders) && !serious.empty())) return;
  serious[0]->suspicion.verdict_at = now + kTrial;
  accused_.push_back(serious[0]->id());
}

void GroupCore::WatchLinks(const Roster& roster, absl::Time now) {
  if (now - looked_at_links_ < options_.heartbeat / 2) return;  // it is heartbeats that tell
  looked_at_links_ = now;
  if (!membership_.running() || steps_.empty()) return links_.Reset();
  const Membership::View& view = *membership_.serving();
  std::vector<const v1::Heartbeat*> beats;
  for (const Membership::Member& member : view.members) {
    const Roster::Worker* worker = roster.Find(member.id);
    const bool current = worker != nullptr && Epoch(worker->beat.epoch()) == view.epoch;
    beats.push_back(current ? &worker->beat : nullptr);
  }
  const std::optional<std::pair<int, int>> cut = links_.Look(beats, now);
  if (!cut || Planted(Bug::kNeverFindsCutLink)) return;
  probe_->links_cut.Add();
  membership_.OnCut(view.members[static_cast<size_t>(cut->first)].id, view.members[static_cast<size_t>(cut->second)].id,
                    now);
  FollowLoss(now);
}

void GroupCore::DrainLeaving(absl::Time now) {
  const Group* group = scheduler_.group();
  for (int rank = 0; group != nullptr && rank < group->size(); ++rank) {
    const Group::Worker& worker = group->worker(rank);
    if (worker.draining && worker.ledger->sequences() == 0) membership_.OnDrained(worker.id, now);
  }
}

void GroupCore::BeginEpoch(absl::Time now) {
  const Membership::View& view = *membership_.ready();
  if (paused_at_ == absl::InfinitePast()) paused_at_ = now;
  std::vector<v1::Begin> begins;
  const int before = scheduler_.running();
  Scheduler::Sequences displaced = scheduler_.StartEpoch(GroupOf(view, membership_, options_.prefix_cache), &begins);
  probe_->sequences_requeued.Add(static_cast<double>(displaced.size()));
  probe_->sequences_kept.Add(static_cast<double>(before) - static_cast<double>(displaced.size()));
  for (auto& sequence : displaced) displaced_.push_back(std::move(sequence));
  step_number_ = 0;
  if (const Membership::View* serving = membership_.serving()) {
    probe_->experts_moved.Add(view.placement.CountNew(serving->placement));
  }
  membership_.Begin(std::move(begins), now);
  rebalanced_at_ = now;
}

void GroupCore::IssueStep(absl::Time now) {
  const bool look_ahead = now >= look_ahead_at_;
  if (look_ahead) look_ahead_at_ = absl::InfiniteFuture();  // once, whatever comes of it
  if (!membership_.running()) return;
  if (paused_at_ != absl::InfinitePast()) {
    probe_->epoch_pause_seconds.Observe(absl::ToDoubleSeconds(now - paused_at_));
    paused_at_ = absl::InfinitePast();
  }
  if (membership_.ready() != nullptr) return;
  if (steps_.empty()) {
    std::optional<std::vector<v1::StepPlan>> plans = scheduler_.PlanStep();
    if (!plans) return;
    Send(*std::move(plans), now);
    ScheduleLookAhead();
  } else if (look_ahead) {
    ahead_share_ = std::max(ahead_share_ * kShareIfInTime, kAheadShareMin);
    std::optional<std::vector<v1::StepPlan>> plans = scheduler_.PlanFollowUp(steps_.front());
    if (!plans) return;
    Send(*std::move(plans), now);
    probe_->steps_ahead.Add();
  }
}

void GroupCore::ScheduleLookAhead() {
  const std::optional<absl::Duration> time = scheduler_.StepTime(steps_.front().rows());
  if (!time) return;
  look_ahead_at_ = steps_.front().begun() + *time * (1 - ahead_share_) - kAheadMin;
}

void GroupCore::Send(std::vector<v1::StepPlan> plans, absl::Time now) {
  const Membership::View& view = *membership_.serving();
  steps_.emplace_back(++step_number_, plans, now);
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    for (const v1::SequenceChunk& chunk : plans[rank].chunks()) probe_->prefix_saves.Add(chunk.saves_size());
    probe_->prefix_drops.Add(plans[rank].drop_snapshots_size());
    SendToWorker send{view.members[rank].id, {}};
    v1::StepPlan& plan = *send.message.mutable_step_plan();
    plan = std::move(plans[rank]);
    plan.set_epoch(view.epoch.value);
    plan.set_step(step_number_);
    plan.set_rows_max(static_cast<uint32_t>(steps_.back().rows_max()));
    actions_->push_back(std::move(send));
  }
}

void GroupCore::PlanRebalance(absl::Time now) {
  const Membership::View& view = *membership_.serving();
  const int workers = static_cast<int>(view.members.size());
  if (workers < 2 || now - rebalanced_at_ < options_.rebalance_interval || load_.rows().empty()) return;
  const std::optional<Placement> better = membership_.Rebalanced(load_.rows());
  if (!better) return;
  rebalanced_at_ = now;
  const double before = view.placement.Imbalance(load_.rows(), workers);
  const double after = better->Imbalance(load_.rows(), workers);
  probe_->placement_imbalance.Set(before);
  if (after > before * (1 - kRebalanceGain)) return;
  spdlog::info("group {}: experts move: the busiest worker has {:.2f} of the mean, then {:.2f}", membership_.name(),
               before, after);
  probe_->rebalances.Add();
  membership_.Rebalance();
}

void GroupCore::Commit(absl::Time now) {
  const Step step = std::move(steps_.front());
  steps_.pop_front();
  if (std::exchange(look_ahead_at_, absl::InfiniteFuture()) != absl::InfiniteFuture()) {
    ahead_share_ = std::min(ahead_share_ * kShareIfTooLate, kAheadShareMax);
  }
  membership_.OnProgress();
  Observe(step, now);
  scheduler_.CommitSaves();
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      Sequence* sequence = scheduler_.Find(chunk.sequence);
      if (sequence == nullptr) continue;
      sequence->OnComputed(chunk.computed);
      sequence->suspicion.OnComputed(sequence->computed());
    }
    for (const v1::PromptScores& scores : step.done(rank).prompt_scores()) DeliverScores(scores);
    for (const v1::Sampled& sampled : step.done(rank).sampled()) DeliverToken(sampled);
  }
  if (steps_.empty()) return;
  steps_.front().set_begun(now);
  ScheduleLookAhead();
}

absl::Status GroupCore::CheckScores(const v1::StepDone& done) const {
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

void GroupCore::DeliverScores(const v1::PromptScores& scores) {
  Sequence* sequence = scheduler_.Find(SequenceId(scores.sequence()));
  if (sequence == nullptr) return;
  // After the loss of an epoch the worker scores the prompt from its beginning again.
  const int skip =
      Planted(Bug::kRepeatsScores) ? 0 : sequence->scores_delivered() - static_cast<int>(scores.position());
  if (skip >= scores.logprobs_size()) return;
  v1::GenerateSequenceResponse event;
  v1::PromptLogprobs* logprobs = event.mutable_prompt_logprobs();
  logprobs->set_position(static_cast<uint32_t>(sequence->scores_delivered()));
  for (int i = skip; i < scores.logprobs_size(); ++i) *logprobs->add_logprobs() = scores.logprobs(i);
  sequence->OnScoresDelivered(sequence->scores_delivered() + logprobs->logprobs_size());
  Say(sequence->id(), std::move(event));
}

void GroupCore::DeliverToken(const v1::Sampled& sampled) {
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
  std::optional<v1::SequenceFinished::Reason> reason;
  for (int i = 0; i <= sampled.more_size(); ++i) {
    if (reason && !Planted(Bug::kTellsWhatFollowsAStop)) break;  // without drafts these would never have been
    const v1::TokenLogprob& token = i == 0 ? sampled.token() : sampled.more(i - 1);
    tokens->add_tokens(token.token());
    if (sequence->want_logprobs()) *tokens->add_logprobs() = token;
    scheduler_.OnToken(*sequence, token.token());
    sequence->Append(token.token());
    if (!reason) reason = sequence->Finished();
  }
  Say(id, std::move(event));
  if (reason) {
    Finish(id, *reason, probe_, actions_);
    scheduler_.Remove(id);
  }
}

void GroupCore::Observe(const Step& step, absl::Time now) {
  probe_->steps.Add();
  probe_->step_seconds.Observe(absl::ToDoubleSeconds(now - step.begun()));
  probe_->step_rows.Observe(step.rows());
  scheduler_.OnStep(step.rows(), now - step.begun());
  int decode_rows = 0, drafts = 0, rejected = 0;
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      const Sequence* sequence = scheduler_.Find(chunk.sequence);
      if (sequence != nullptr && sequence->decoding()) decode_rows += chunk.computed;
      drafts += static_cast<int>(chunk.drafts.size());
      rejected += chunk.rows - chunk.computed;
    }
    const v1::StepDone& done = step.done(rank);
    probe_->worker_step_seconds.Add(static_cast<double>(done.step_us()) * 1e-6);
    probe_->worker_exchange_seconds.Add(static_cast<double>(done.exchange_us()) * 1e-6);
    load_.Add(done.expert_rows());
  }
  probe_->decode_rows.Add(decode_rows);
  probe_->prefill_rows.Add(step.rows() - decode_rows - rejected);
  probe_->rejected_rows.Add(rejected);
  probe_->drafted_tokens.Add(drafts);
  probe_->accepted_tokens.Add(drafts - rejected);
  if (!load_.EndStep()) return;
  const v1::Hello& hello = membership_.serving()->members.front().hello;
  probe_->expert_imbalance.Set(load_.Imbalance(static_cast<int>(hello.expert_count())));
  PlanRebalance(now);
}

void GroupCore::Say(SequenceId id, v1::GenerateSequenceResponse event) {
  actions_->push_back(SendToSequence{id, std::move(event)});
}

void GroupCore::Fail(SequenceId id, absl::Status status) {
  CHECK(!status.ok());
  scheduler_.Remove(id);
  actions_->push_back(EndSequence{id, std::move(status), absl::ZeroDuration()});
  probe_->failed.Add();
}

}  // namespace braid
