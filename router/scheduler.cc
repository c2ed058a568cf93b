#include "router/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"

namespace braid {

// Rows still to give away in a step, over all workers and on each.
class Scheduler::Budget {
 public:
  Budget(int rows, const Group& group) : all_{rows} {
    for (const Group::Worker& worker : group.workers()) by_rank_.push_back({worker.step_tokens_max});
  }

  // Puts a share out of the decodes' reach until GiveBack.
  void KeepForPrefill(int rank) {
    all_.Keep();
    by_rank_[static_cast<size_t>(rank)].Keep();
  }

  void GiveBack() {
    all_.GiveBack();
    for (Rows& rows : by_rank_) rows.GiveBack();
  }

  // Up to `want` rows on `rank`; may be 0.
  int Take(int rank, int want) {
    Rows& rows = by_rank_[static_cast<size_t>(rank)];
    const int got = std::min({want, rows.left, all_.left});
    rows.left -= got;
    all_.left -= got;
    return got;
  }

 private:
  struct Rows {
    int left = 0;
    int kept = 0;

    void Keep() {
      if (kept > 0) return;
      kept = left / 8;
      left -= kept;
    }
    void GiveBack() { left += std::exchange(kept, 0); }
  };
  Rows all_;
  std::vector<Rows> by_rank_;
};

namespace {

// Inside of a prompt there are no more, however long it is.
constexpr int kSnapshotsOfPrompt = 16;

// Where the state at `end`, a multiple of the block, is worth keeping of a sequence that begins by prefilling so many
// tokens. A prompt that is sent again needs its last token computed, so its end is before that.
std::optional<KvLedger::Place> WorthSaving(int end, int prefill_tokens, int block_tokens, int snapshot_tokens) {
  const int last = (prefill_tokens - 1) / block_tokens * block_tokens;
  if (end == last) return KvLedger::Place::kEndOfPrompt;
  if (end > prefill_tokens) return KvLedger::Place::kInAnswer;
  const int stride = snapshot_tokens * ((prefill_tokens - 1) / (snapshot_tokens * kSnapshotsOfPrompt) + 1);
  // The block that reaches a multiple of that, where no block ends there.
  if (end < last && end % stride < block_tokens) return KvLedger::Place::kOnTheWay;
  return std::nullopt;
}

}  // namespace

Scheduler::Sequences Scheduler::StartEpoch(Group group, std::vector<v1::Begin>* begins) {
  EndEpoch();
  begins->assign(static_cast<size_t>(group.size()), {});
  releases_.assign(static_cast<size_t>(group.size()), {});
  group_ = std::move(group);
  const auto ledgers = std::exchange(ledgers_, {});
  for (int rank = 0; rank < group_->size(); ++rank) {
    const WorkerId id = group_->worker(rank).id;
    const auto known = std::find_if(ledgers.begin(), ledgers.end(), [id](const auto& l) { return l.first == id; });
    if (known != ledgers.end()) group_->TakeOver(rank, known->second);
    KvLedger& ledger = *group_->worker(rank).ledger;
    ledgers_.emplace_back(id, group_->worker(rank).ledger);
    ledger.TakeDropped();  // it drops all that it is not told to keep
    for (const SnapshotId snapshot : ledger.Snapshots()) {
      (*begins)[static_cast<size_t>(rank)].add_keep_snapshots(snapshot.value);
    }
  }
  std::vector<SequenceId> homeless;
  for (const auto& sequence : running_) {
    std::optional<int> home;
    for (int rank = 0; rank < group_->size(); ++rank) {
      if (group_->worker(rank).id == sequence->home()) home = rank;
    }
    if (!home) {
      homeless.push_back(sequence->id());
      continue;
    }
    sequence->Return(*home);
    if (!sequence->started()) continue;
    v1::SequenceKept& kept = *(*begins)[static_cast<size_t>(*home)].add_keep();
    kept.set_sequence(sequence->id().value);
    kept.set_length(static_cast<uint32_t>(sequence->computed() + (Planted(Bug::kKeepsAtWrongLength) ? 1 : 0)));
  }
  return Displace(homeless);
}

void Scheduler::EndEpoch() {
  if (!group_) return;
  for (const auto& sequence : running_) sequence->Park(group_->worker(*sequence->owner()).id);
  for (const Group::Worker& worker : group_->workers()) worker.ledger->VoidSaves();
  group_.reset();
  releases_.clear();
}

Scheduler::Sequences Scheduler::Displace(const std::vector<SequenceId>& ids) {
  Sequences displaced;
  for (SequenceId id : ids) {
    if (std::unique_ptr<Sequence> sequence = Remove(id)) {
      sequence->Displace();
      displaced.push_back(std::move(sequence));
    }
  }
  return displaced;
}

Scheduler::Sequences Scheduler::DisplaceAll() {
  CHECK(!group_);
  return Displace(Ids());
}

std::optional<int> Scheduler::PickOwner(const Sequence& sequence) const {
  CHECK(group_);
  if (running() >= limits_.sequences_max) return std::nullopt;
  return group_->PickOwner(group_->BlocksFor(sequence.tokens_max()), sequence.Resumable(group_->kv_block_tokens()));
}

int Scheduler::CachedTokens(const Sequence& sequence, int owner) const {
  return group_->worker(owner).ledger->CachedTokens(sequence.Resumable(group_->kv_block_tokens()));
}

void Scheduler::Admit(std::unique_ptr<Sequence> sequence, int owner) {
  const uint64_t blocks = group_->BlocksFor(sequence->tokens_max());
  KvLedger& ledger = *group_->worker(owner).ledger;
  sequence->Place(owner, ledger.Reserve(blocks, sequence->Resumable(group_->kv_block_tokens())));
  CHECK(by_id_.emplace(sequence->id(), sequence.get()).second);
  running_.push_back(std::move(sequence));
}

std::unique_ptr<Sequence> Scheduler::Remove(SequenceId id) {
  auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  const Sequence* wanted = found->second;
  by_id_.erase(found);
  auto it = std::find_if(running_.begin(), running_.end(), [wanted](const auto& s) { return s.get() == wanted; });
  std::unique_ptr<Sequence> sequence = std::move(*it);
  running_.erase(it);
  if (sequence->owner()) Free(*sequence);
  sequence->lease().Reset();
  return sequence;
}

Sequence* Scheduler::Find(SequenceId id) const {
  auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

std::optional<std::vector<v1::StepPlan>> Scheduler::PlanStep() {
  CHECK(group_);
  std::vector<v1::StepPlan> plans(static_cast<size_t>(group_->size()));
  AddReleases(plans);
  const Sequence* suspect = Find(suspect_);
  auto may_be_tried = [](const Sequence& s) { return s.suspicion.serious() && !s.suspicion.on_trial(); };
  if (suspect == nullptr || !may_be_tried(*suspect)) {
    auto next = std::find_if(running_.begin(), running_.end(), [&](const auto& s) { return may_be_tried(*s); });
    suspect_ = next == running_.end() ? SequenceId() : (*next)->id();
  }
  Budget budget(limits_.step_tokens, *group_);
  for (const auto& sequence : running_) {
    if (!sequence->decoding() && !HeldBack(*sequence)) budget.KeepForPrefill(*sequence->owner());
  }
  PlanDecodes(budget, plans);
  budget.GiveBack();
  PlanPrefill(budget, plans);
  PlanDrafts(budget, plans);
  AddDrops(plans);  // also for what is saved now
  auto says_nothing = [](const v1::StepPlan& plan) {
    return plan.chunks().empty() && plan.release().empty() && plan.drop_snapshots().empty();
  };
  if (std::all_of(plans.begin(), plans.end(), says_nothing)) return std::nullopt;
  return plans;
}

std::optional<std::vector<v1::StepPlan>> Scheduler::PlanFollowUp(const Step& step) {
  CHECK(group_);
  std::vector<v1::StepPlan> plans(static_cast<size_t>(group_->size()));
  int known = 0, rows = 0;
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      const Sequence* sequence = Find(chunk.sequence);
      if (sequence == nullptr) continue;  // it has ended
      ++known;
      if (!chunk.sample || !sequence->suspicion.crashes.empty()) return std::nullopt;
      if (!chunk.drafts.empty() && !Planted(Bug::kFollowsDrafts)) return std::nullopt;
      if (sequence->answer_tokens_left() == 1) continue;  // that token is its last
      const int position = chunk.position + chunk.rows;
      if (PlaceToSave(*sequence, position + 1)) return std::nullopt;
      v1::SequenceChunk* const next = plans[static_cast<size_t>(rank)].add_chunks();
      next->set_sequence(chunk.sequence.value);
      next->set_position(static_cast<uint32_t>(position));
      next->set_sample(true);
      next->set_follows(true);
      ++rows;
    }
  }
  if (known < running() || rows == 0 || MightHaveDrafts(step)) return std::nullopt;
  AddReleases(plans);
  AddDrops(plans);
  return plans;
}

bool Scheduler::MightHaveDrafts(const Step& step) {
  if (limits_.drafts_max == 0) return false;
  std::vector<DraftPlanner::Decode> decodes;
  for (int rank = 0; rank < step.size(); ++rank) {
    for (const Step::Chunk& chunk : step.chunks(rank)) {
      Sequence* const sequence = Find(chunk.sequence);
      if (sequence == nullptr || sequence->careful) continue;
      const int most = MostDrafts(*sequence, chunk.position + chunk.rows) - 1;  // the token that is being chosen
      decodes.push_back({.sequence = sequence, .rank = rank, .most = most});
    }
  }
  return !decodes.empty() && drafts_.WouldChoose(decodes, running());
}

std::optional<absl::Duration> Scheduler::StepTime(int rows) const {
  if (rows == 0 || drafts_.times().empty()) return std::nullopt;
  return absl::Seconds(drafts_.times().Seconds(rows));
}

void Scheduler::AddReleases(std::vector<v1::StepPlan>& plans) {
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    plans[rank].mutable_release()->Add(releases_[rank].begin(), releases_[rank].end());
    releases_[rank].clear();
  }
}

void Scheduler::AddDrops(std::vector<v1::StepPlan>& plans) {
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    for (const SnapshotId snapshot : group_->worker(static_cast<int>(rank)).ledger->TakeDropped()) {
      plans[rank].add_drop_snapshots(snapshot.value);
    }
  }
}

void Scheduler::CommitSaves() {
  for (const Group::Worker& worker : group_->workers()) worker.ledger->CommitSaves();
}

std::vector<SequenceId> Scheduler::Ids() const {
  std::vector<SequenceId> ids;
  for (const auto& [id, sequence] : by_id_) ids.push_back(id);
  return ids;
}

void Scheduler::PlanDecodes(Budget& budget, std::vector<v1::StepPlan>& plans) {
  bool all_served = true;
  for (const auto& sequence : running_) {
    if (!sequence->decoding() || HeldBack(*sequence)) continue;
    sequence->left_out = budget.Take(*sequence->owner(), 1) == 0;
    if (!sequence->left_out) AddChunk(*sequence, 1, plans);
    all_served &= !sequence->left_out;
  }
  if (all_served) return;
  // Those left out come first next time.
  std::stable_partition(running_.begin(), running_.end(), [](const auto& s) { return !s->decoding() || s->left_out; });
}

void Scheduler::PlanPrefill(Budget& budget, std::vector<v1::StepPlan>& plans) {
  for (const auto& sequence : running_) {
    if (sequence->decoding() || HeldBack(*sequence)) continue;
    const int rows = budget.Take(*sequence->owner(), std::min(sequence->remaining(), limits_.chunk_tokens));
    if (rows == 0) continue;
    AddChunk(*sequence, rows, plans);
    sequence->turn_tokens += rows;
  }
  const int turn = limits_.chunk_tokens * kTurnChunks;
  auto had_turn = [turn](const auto& sequence) { return sequence->turn_tokens >= turn; };
  auto back = std::stable_partition(running_.begin(), running_.end(), [&](const auto& s) { return !had_turn(s); });
  std::for_each(back, running_.end(), [](const auto& sequence) { sequence->turn_tokens = 0; });
}

void Scheduler::PlanDrafts(Budget& budget, std::vector<v1::StepPlan>& plans) {
  if (limits_.drafts_max == 0) return;
  std::vector<DraftPlanner::Decode> decodes;
  int rows = 0;
  for (int rank = 0; rank < group_->size(); ++rank) {
    for (v1::SequenceChunk& chunk : *plans[static_cast<size_t>(rank)].mutable_chunks()) {
      rows += chunk.tokens_size();
      Sequence& sequence = *Find(SequenceId(chunk.sequence()));
      if (!sequence.decoding() || sequence.careful) continue;
      decodes.push_back({&sequence, &chunk, rank, MostDrafts(sequence, sequence.computed())});
    }
  }
  if (decodes.empty()) return;
  drafts_.Choose(decodes, rows);
  for (const DraftPlanner::Decode& decode : decodes) {
    DraftPlanner::AddDrafts(decode, budget.Take(decode.rank, decode.drafts));
  }
}

int Scheduler::MostDrafts(const Sequence& sequence, int computed) const {
  // The token behind the last draft counts, too.
  int most = sequence.answer_tokens_left() - 1 + (Planted(Bug::kDraftsBeyondTheLimit) ? 8 : 0);
  if (group_->worker(*sequence.owner()).snapshots_max > 0) {
    // A block is to end with a row that is sure to stay, where a snapshot can be taken.
    const int block = group_->kv_block_tokens();
    most = std::min(most, ((computed + 1) / block + 1) * block - computed - 2);
  }
  return most;
}

void Scheduler::AddChunk(Sequence& sequence, int rows, std::vector<v1::StepPlan>& plans) {
  v1::StepPlan& plan = plans[static_cast<size_t>(*sequence.owner())];
  if (!sequence.started()) *plan.add_start() = sequence.Start();
  v1::SequenceChunk* const chunk = plan.add_chunks();
  *chunk = sequence.Chunk(rows);
  AddSaves(sequence, chunk);
}

std::optional<KvLedger::Place> Scheduler::PlaceToSave(const Sequence& sequence, int end) const {
  const int block = group_->kv_block_tokens();
  if (end % block != 0 || group_->worker(*sequence.owner()).snapshots_max == 0) return std::nullopt;
  return WorthSaving(end, sequence.prefill_tokens(), block, limits_.snapshot_tokens);
}

void Scheduler::AddSaves(Sequence& sequence, v1::SequenceChunk* chunk) {
  const int block = group_->kv_block_tokens();
  const int begin = sequence.computed(), end = begin + chunk->tokens_size();
  for (int position = (begin / block + 1) * block; position <= end; position += block) {
    const std::optional<KvLedger::Place> place = PlaceToSave(sequence, position);
    if (!place) continue;
    const Beginning beginning = sequence.First(position, block);
    if (beginning.tokens.empty()) return;
    KvLedger& ledger = *group_->worker(*sequence.owner()).ledger;
    if (const std::optional<SnapshotId> id = ledger.Save(sequence.lease(), beginning, *place)) {
      v1::SnapshotSave* const save = chunk->add_saves();
      save->set_snapshot(id->value);
      save->set_position(static_cast<uint32_t>(position));
    }
  }
}

void Scheduler::Free(Sequence& sequence) {
  if (sequence.started() && !Planted(Bug::kForgetsRelease))
    releases_[static_cast<size_t>(*sequence.owner())].push_back(sequence.id().value);
}

}  // namespace braid
