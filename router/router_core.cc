#include "router/router_core.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/planted_bug.h"
#include "base/status.h"
#include "router/validate.h"

namespace braid {
namespace {

constexpr const char* kQuarantined = "workers crashed whenever they ran this request; it is not tried again";

}  // namespace

RouterCore::RouterCore(const RouterOptions& options, Epoch before, RouterProbe* probe)
    : options_(options),
      probe_(probe),
      before_(before),
      last_epoch_(Planted(Bug::kReusesEpochs) ? Epoch(0) : before),
      roster_(options, &actions_),
      queue_(options.queue_max) {
  CHECK_OK(CheckOptions(options));
}

void RouterCore::OnGenerate(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time now) {
  absl::Status status = CheckAdmissible(request, now);
  if (!status.ok()) {
    probe_->refused.Add();
    const bool retry = absl::IsUnavailable(status);
    actions_.push_back(EndSequence{id, std::move(status), retry ? kRetryWhenNotReady : absl::ZeroDuration()});
    return;
  }
  auto sequence = std::make_unique<Sequence>(id, request, now);
  if (auto reason = sequence->Finished(); reason && !Planted(Bug::kRunsFinishedAgain)) {
    // The earlier call was cut between its last token and its end.
    Accept(*sequence, &actions_);
    Finish(id, *reason, probe_, &actions_);
    return;
  }
  if (Planted(Bug::kAcceptsBeforeHolding)) Accept(*sequence, &actions_);
  status = queue_.Push(std::move(sequence));
  if (!status.ok()) {
    probe_->refused.Add();
    actions_.push_back(EndSequence{id, std::move(status), kRetryWhenFull});
    return;
  }
  Admit(now);  // at once, so that only those without memory stand in the queue
}

void RouterCore::OnCancel(SequenceId id) {
  if (Planted(Bug::kIgnoresCancel)) return;
  if (Remove(id)) probe_->cancelled.Add();
}

void RouterCore::OnWorkerOpened(WorkerId worker, absl::Time now) {
  absl::Status status =
      stopped_ ? absl::UnavailableError("the router is shutting down") : roster_.OnOpened(worker, now);
  if (!status.ok()) actions_.push_back(CloseWorker{worker, std::move(status)});
}

void RouterCore::OnWorkerMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now) {
  if (roster_.Find(worker) == nullptr) return;
  roster_.OnHeard(worker, now);
  absl::Status status = Dispatch(worker, message, now);
  if (!status.ok()) Close(worker, std::move(status), now);
}

void RouterCore::OnWorkerLost(WorkerId worker, absl::Time now) { Forget(worker, /*crashed=*/true, now); }

void RouterCore::Drain() {
  draining_ = true;
  for (int i = queue_.size() - 1; i >= 0; --i) {
    if (queue_.at(i).accepted) continue;
    FailWaiting(queue_.at(i).id(), absl::UnavailableError("the router is draining; try another"));
  }
}

void RouterCore::Stop(const absl::Status& status, absl::Time now) {
  draining_ = stopped_ = true;
  while (!roster_.workers().empty()) Close(roster_.workers().begin()->first, status, now);
  HandOver(now);
  while (queue_.size() > 0) FailWaiting(queue_.at(0).id(), status);
}

void RouterCore::Advance(absl::Time now) {
  now_ = now;
  for (WorkerId worker : roster_.Silent(now)) {
    const int64_t ms = absl::ToInt64Milliseconds(options_.heartbeat_timeout);
    Close(worker, absl::DeadlineExceededError(absl::StrCat("nothing heard for ", ms, " ms")), now);
  }
  for (const auto& [name, group] : groups_) {
    for (WorkerId worker : group->Late(now)) {
      Close(worker, absl::DeadlineExceededError("it did not come back from a step in time"), now, /*crashed=*/true);
    }
    for (WorkerId worker : group->Releasable()) Close(worker, absl::OkStatus(), now);
    group->Advance(roster_, now);
  }
  HandOver(now);
  Judge(now);
  Admit(now);
  for (const auto& [name, group] : groups_) group->IssueStep(now);
  roster_.SendHeartbeats(last_epoch_, now);
  UpdateGauges();
}

absl::Time RouterCore::WakeAt() const {
  absl::Time wake_at = absl::InfiniteFuture();
  for (const auto& [name, group] : groups_) wake_at = std::min(wake_at, group->WakeAt());
  return wake_at;
}

std::vector<Action> RouterCore::TakeActions() { return std::exchange(actions_, {}); }

std::string RouterCore::NotReady() const {
  if (draining_) return "draining";
  if (Ready()) return "";
  if (groups_.empty()) return absl::StrCat("waiting for ", options_.workers, " of ", options_.workers, " workers");
  std::string reasons;
  for (const auto& [name, group] : groups_) {
    const std::string prefix = groups_.size() == 1 ? "" : absl::StrCat("group ", name, ": ");
    absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", prefix, group->membership().NotReady());
  }
  if (options_.groups == 0 && groups_.size() > 1) {
    absl::StrAppend(&reasons, "; the GPUs of each host are a group, unless --groups or --group say otherwise");
  }
  return reasons;
}

std::string RouterCore::Unprotected() const {
  std::string reasons;
  int serving = 0;
  for (const auto& [name, group] : groups_) {
    serving += group->serving() ? 1 : 0;
    const std::string reason = group->membership().Unprotected();
    if (!reason.empty()) absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", reason);
  }
  return serving > 1 ? "" : reasons;  // another group takes over
}

void RouterCore::FillStatus(v1::GetStatusResponse* status) const {
  status->Clear();
  status->set_state(draining_  ? v1::GetStatusResponse::STATE_DRAINING
                    : !Ready() ? v1::GetStatusResponse::STATE_LOADING
                               : v1::GetStatusResponse::STATE_READY);
  status->set_detail(NotReady());
  status->set_unprotected(Unprotected());
  status->set_sequences_running(static_cast<uint32_t>(running()));
  status->set_sequences_waiting(static_cast<uint32_t>(queue_.size()));
  if (model_) {
    status->set_model_digest(model_->model_digest());
    status->set_arithmetic(model_->arithmetic());
    status->set_kv_type(model_->kv_type());
    status->set_context_tokens_max(
        static_cast<uint32_t>(std::min<uint64_t>(model_->context_tokens_max(), kv_tokens_max_)));
  }
  for (const auto& [id, worker] : roster_.workers()) {
    if (!worker.hello) continue;
    v1::WorkerInfo* info = status->add_workers();
    info->set_worker_id(id.value);
    info->set_name(worker.hello->name());
    info->set_kv_blocks_total(worker.hello->kv_blocks());
    const GroupCore* core = GroupOf(id);
    info->set_group(core->membership().name());
    const Group* group = core->scheduler().group();
    if (group == nullptr) continue;
    const std::optional<int> rank = core->membership().serving()->RankOf(id);
    if (!rank) continue;
    info->set_in_epoch(true);
    const KvLedger& ledger = *group->worker(*rank).ledger;
    info->set_sequences(static_cast<uint32_t>(ledger.sequences()));
    info->set_kv_blocks_used(ledger.blocks_used());
    info->set_kv_blocks_cached(ledger.blocks_cached());
    info->set_snapshots(static_cast<uint32_t>(ledger.snapshots()));
  }
  for (const auto& [name, core] : groups_) {
    const Group* group = core->scheduler().group();
    if (group == nullptr) continue;
    status->set_groups_ready(status->groups_ready() + 1);
    status->set_epoch(std::max(status->epoch(), group->epoch().value));
    status->set_kv_blocks_used(status->kv_blocks_used() + group->kv_blocks_used());
    status->set_kv_blocks_total(status->kv_blocks_total() + group->kv_blocks_total());
  }
}

absl::Status RouterCore::CheckAdmissible(const v1::GenerateSequenceRequest& request, absl::Time now) {
  if (quarantine_.Holds(Quarantine::Fingerprint(request), now)) {
    return absl::AbortedError(kQuarantined);
  }
  if (draining_) return absl::UnavailableError("the router is draining; try another");
  if (!Ready()) return absl::UnavailableError(absl::StrCat("no group is ready: ", NotReady()));
  return CheckRequest(request, {.context_tokens_max = model_->context_tokens_max(),
                                .vocab_size = model_->vocab_size(),
                                .kv_tokens_max = kv_tokens_max_});
}

absl::Status RouterCore::Dispatch(WorkerId worker, const v1::AttachRequest& message, absl::Time now) {
  GroupCore* group = GroupOf(worker);
  if (!message.has_hello() && group == nullptr) return InvalidArgument("the first message must be hello");
  switch (message.message_case()) {
    case v1::AttachRequest::kHello:
      return OnHello(worker, message.hello(), now);
    case v1::AttachRequest::kHeartbeat:
      roster_.OnHeartbeat(worker, message.heartbeat(), now);
      return absl::OkStatus();
    case v1::AttachRequest::kLeaving:
      group->OnLeaving(worker, now);
      return absl::OkStatus();
    case v1::AttachRequest::MESSAGE_NOT_SET:
      return InvalidArgument("a message without content, or of a newer version");
    default:
      return group->OnMessage(worker, message, now);
  }
}

absl::Status RouterCore::OnHello(WorkerId worker, const v1::Hello& hello, absl::Time now) {
  const bool alone = std::none_of(roster_.workers().begin(), roster_.workers().end(),
                                  [](const auto& entry) { return entry.second.hello.has_value(); });
  RETURN_IF_ERROR(roster_.OnHello(worker, hello));
  // Of a router whose clock is ahead of ours, and which may not know yet that it has been replaced. Another router that
  // meets the same worker begins elsewhere.
  if (Epoch(hello.epoch()) > last_epoch_) last_epoch_ = Epoch(hello.epoch() + before_.value);
  if (hello.epoch() > 0) Acquit({Epoch(hello.epoch()), hello.name()});
  // A rolling change of what answers depend on goes through a moment without workers.
  if (alone && model_ && !AnswerAlike(*model_, hello)) {
    HandOver(now);
    while (queue_.size() > 0) {
      FailWaiting(queue_.at(0).id(),
                  absl::FailedPreconditionError("the workers now serve another model, or round otherwise"));
    }
    kv_tokens_max_ = 0;
  }
  const std::string name = ChooseGroup(hello);
  spdlog::info("worker {} ({}) with {} KV blocks attached to group {}{}", worker.value, hello.name(), hello.kv_blocks(),
               name, hello.host().empty() ? "" : absl::StrCat("; its GPU is in ", hello.host()));
  std::unique_ptr<GroupCore>& group = groups_[name];
  if (group == nullptr) group = std::make_unique<GroupCore>(name, options_, &last_epoch_, probe_, &actions_);
  group->OnJoined(worker, hello, now);
  model_ = hello;
  kv_tokens_max_ = std::max(kv_tokens_max_, hello.kv_blocks() * hello.kv_block_tokens());
  return absl::OkStatus();
}

GroupCore* RouterCore::GroupOf(WorkerId worker) const {
  for (const auto& [name, group] : groups_) {
    if (group->membership().has(worker)) return group.get();
  }
  return nullptr;
}

std::string RouterCore::ChooseGroup(const v1::Hello& hello) const {
  if (!hello.group().empty()) return hello.group();
  // Where the number of groups is open, one is free for whoever finds no neighbours. Where it is not, a group that
  // cannot begin would be worse than one of several hosts.
  const bool open = options_.groups == 0;
  const int count = open ? static_cast<int>(groups_.size()) + 1 : options_.groups;
  enum Neighbours { kOfItsHost, kNone, kOfOtherHosts };
  std::tuple<bool, Neighbours, int, int> best{true, kOfOtherHosts, std::numeric_limits<int>::max(), 0};
  for (int i = 0; i < count; ++i) {
    const auto found = groups_.find(absl::StrCat(i));
    const Membership* group = found == groups_.end() ? nullptr : &found->second->membership();
    const int size = group == nullptr ? 0 : group->size();
    const Neighbours neighbours = size == 0 ? kNone : group->HasWorkerOn(hello.host()) ? kOfItsHost : kOfOtherHosts;
    const bool full = !open && size >= options_.workers;
    best = std::min(best, {full, neighbours, full ? size : 0, i});
  }
  return absl::StrCat(std::get<3>(best));
}

void RouterCore::Close(WorkerId worker, absl::Status status, absl::Time now, bool crashed) {
  if (!status.ok()) spdlog::warn("worker {} is sent away: {}", worker.value, StdView(status.message()));
  actions_.push_back(CloseWorker{worker, std::move(status)});
  Forget(worker, crashed, now);
}

void RouterCore::Forget(WorkerId worker, bool crashed, absl::Time now) {
  if (GroupCore* group = GroupOf(worker)) group->OnLost(worker, crashed, now);
  roster_.Forget(worker);
}

void RouterCore::Judge(absl::Time now) {
  for (const auto& [name, group] : groups_) {
    for (SequenceId id : group->TakeAccused()) on_trial_.push_back(id);
  }
  std::erase_if(on_trial_, [&](SequenceId id) {
    const Sequence* sequence = Find(id);
    if (sequence == nullptr || !sequence->suspicion.on_trial()) return true;  // ended, or acquitted
    if (now < sequence->suspicion.verdict_at) return false;
    spdlog::error("sequence {} was running at {} crashes of workers in a row; it is not tried again", id.value,
                  sequence->suspicion.crashes.size());
    probe_->quarantined.Add();
    probe_->failed.Add();
    quarantine_.Add(sequence->fingerprint(), now);
    Remove(id);
    actions_.push_back(EndSequence{id, absl::AbortedError(kQuarantined), absl::ZeroDuration()});
    return true;
  });
}

void RouterCore::Acquit(const Suspicion::Crash& no_crash) {
  for (const auto& [name, group] : groups_) {
    for (SequenceId id : group->scheduler().Ids()) group->Find(id)->suspicion.OnReturn(no_crash);
  }
  for (int i = 0; i < queue_.size(); ++i) queue_.at(i).suspicion.OnReturn(no_crash);
}

Sequence* RouterCore::Find(SequenceId id) const {
  for (const auto& [name, group] : groups_) {
    if (Sequence* sequence = group->Find(id)) return sequence;
  }
  return queue_.Find(id);
}

bool RouterCore::Remove(SequenceId id) {
  bool known = queue_.Remove(id) != nullptr;
  for (const auto& [name, group] : groups_) known = known || group->Remove(id) != nullptr;
  return known;
}

void RouterCore::HandOver(absl::Time now) {
  const bool other =
      std::any_of(groups_.begin(), groups_.end(), [](const auto& entry) { return entry.second->serving(); });
  for (const auto& [name, group] : groups_) {
    if (group->serving()) continue;
    const bool empty = group->membership().size() == 0;
    if (empty || (other && now - group->stopped_at() > kHandOverAfter)) group->GiveUpSequences();
  }
  for (const auto& [name, group] : groups_) {
    auto displaced = group->TakeDisplaced();
    if (!Planted(Bug::kLosesDisplaced)) queue_.PushFront(std::move(displaced));
  }
  // Workers name groups as they like: those that nobody is in any more go.
  std::erase_if(groups_, [now](const auto& entry) {
    const GroupCore& group = *entry.second;
    return group.membership().size() == 0 && now - group.stopped_at() > kRecoveryPatience;
  });
}

void RouterCore::Admit(absl::Time now) {
  for (int i = 0; i < queue_.size();) {
    const Sequence& next = queue_.at(i);
    GroupCore* group = ChooseGroupFor(next);
    // The head of the queue is never overtaken: a large request waits for room, but not behind smaller ones that came
    // later. One that no worker of now could ever hold waits for other workers, and is in nobody's way.
    if (group == nullptr && CouldHold(next)) break;
    if (group == nullptr) {
      ++i;
      continue;
    }
    std::unique_ptr<Sequence> taken = queue_.Take(i);
    Sequence& sequence = *taken;
    group->Admit(std::move(taken));
    if (sequence.accepted) continue;
    probe_->queue_seconds.Observe(absl::ToDoubleSeconds(now - sequence.arrived()));
    Accept(sequence, &actions_);
  }
}

GroupCore* RouterCore::ChooseGroupFor(const Sequence& sequence) const {
  std::vector<std::pair<GroupCore*, GroupCore::Fit>> fits;
  for (const auto& [name, group] : groups_) {
    if (group->membership().dissolving() && !sequence.accepted) continue;
    if (const std::optional<GroupCore::Fit> fit = group->FitFor(sequence)) fits.emplace_back(group.get(), *fit);
  }
  if (fits.empty()) return nullptr;
  const auto idlest = std::min_element(fits.begin(), fits.end(),
                                       [](const auto& a, const auto& b) { return a.second.load < b.second.load; });
  auto best = idlest;
  for (auto fit = fits.begin(); fit != fits.end(); ++fit) {
    const int gain = fit->second.cached_tokens - idlest->second.cached_tokens;
    if (!WorthTheQueue(gain, sequence.log().size(), fit->second.load, idlest->second.load)) continue;
    if (fit->second.cached_tokens > best->second.cached_tokens) best = fit;
  }
  return best->first;
}

bool RouterCore::CouldHold(const Sequence& sequence) const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [&](const auto& entry) { return entry.second->CouldHold(sequence); });
}

bool RouterCore::Ready() const {
  if (!model_) return false;
  return std::any_of(groups_.begin(), groups_.end(), [this](const auto& entry) {
    const GroupCore& group = *entry.second;
    if (group.membership().dissolving()) return false;
    return group.serving() || now_ - group.stopped_at() < kRecoveryPatience;
  });
}

void RouterCore::FailWaiting(SequenceId id, absl::Status status) {
  CHECK(!status.ok());
  queue_.Remove(id);
  actions_.push_back(EndSequence{id, std::move(status), kRetryWhenNotReady});
  probe_->failed.Add();
}

int RouterCore::running() const {
  int count = 0;
  for (const auto& [name, group] : groups_) count += group->scheduler().running();
  return count;
}

void RouterCore::UpdateGauges() {
  uint64_t used = 0, total = 0, cached = 0, epoch = 0;
  int ready = 0, snapshots = 0;
  for (const auto& [name, core] : groups_) {
    const Group* group = core->scheduler().group();
    if (group == nullptr) continue;
    ++ready;
    used += group->kv_blocks_used();
    total += group->kv_blocks_total();
    for (const Group::Worker& worker : group->workers()) {
      cached += worker.ledger->blocks_cached();
      snapshots += worker.ledger->snapshots();
    }
    epoch = std::max(epoch, group->epoch().value);
  }
  probe_->sequences_running.Set(running());
  probe_->sequences_waiting.Set(queue_.size());
  probe_->kv_blocks_used.Set(static_cast<double>(used));
  probe_->kv_blocks_total.Set(static_cast<double>(total));
  probe_->prefix_blocks.Set(static_cast<double>(cached));
  probe_->prefix_snapshots.Set(snapshots);
  probe_->ready.Set(!draining_ && Ready() ? 1 : 0);
  probe_->is_protected.Set(ready > 0 && Unprotected().empty() ? 1 : 0);
  probe_->groups_ready.Set(ready);
  probe_->workers_wanted.Set(options_.workers * std::max({1, options_.groups, static_cast<int>(groups_.size())}));
  probe_->workers_attached.Set(static_cast<double>(roster_.workers().size()));
  probe_->epoch.Set(static_cast<double>(epoch));
}

}  // namespace braid
