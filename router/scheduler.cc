#include "router/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

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

absl::Status Scheduler::Enqueue(std::unique_ptr<Sequence> sequence) {
  if (waiting() >= limits_.queue_max) {
    return absl::ResourceExhaustedError("the queue is full; retry later");
  }
  CHECK(by_id_.emplace(sequence->id(), sequence.get()).second);
  waiting_.push_back(std::move(sequence));
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Scheduler::Remove(SequenceId id) {
  auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  const Sequence* wanted = found->second;
  by_id_.erase(found);
  auto take = [wanted](auto& from) -> std::unique_ptr<Sequence> {
    auto it = std::find_if(from.begin(), from.end(), [wanted](const auto& s) { return s.get() == wanted; });
    if (it == from.end()) return nullptr;
    std::unique_ptr<Sequence> sequence = std::move(*it);
    from.erase(it);
    return sequence;
  };
  if (!wanted->owner()) return take(waiting_);
  std::unique_ptr<Sequence> sequence = take(running_);
  Free(*sequence);
  return sequence;
}

Sequence* Scheduler::Find(SequenceId id) const {
  auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

void Scheduler::StartEpoch(Group group) {
  CHECK(!group_);
  releases_.assign(static_cast<size_t>(group.size()), {});
  group_ = std::move(group);
}

int Scheduler::EndEpoch() {
  group_.reset();
  releases_.clear();
  const int count = running();
  std::sort(running_.begin(), running_.end(), [](const auto& a, const auto& b) { return a->id() < b->id(); });
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    (*it)->Displace();
    waiting_.push_front(std::move(*it));
  }
  running_.clear();
  return count;
}

std::vector<Sequence*> Scheduler::Admit() {
  CHECK(group_);
  std::vector<Sequence*> admitted;
  while (!waiting_.empty() && running() < limits_.sequences_max) {
    Sequence& head = *waiting_.front();
    const uint64_t blocks = group_->BlocksFor(head.tokens_max());
    const std::optional<int> owner = group_->PickOwner(blocks);
    if (!owner) break;
    group_->Reserve(*owner, blocks);
    head.Place(*owner, blocks);
    admitted.push_back(&head);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return admitted;
}

std::optional<std::vector<v1::StepPlan>> Scheduler::PlanStep() {
  CHECK(group_);
  std::vector<v1::StepPlan> plans(static_cast<size_t>(group_->size()));
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    plans[rank].mutable_release()->Add(releases_[rank].begin(), releases_[rank].end());
    releases_[rank].clear();
  }
  Budget budget(limits_.step_tokens, *group_);
  for (const auto& sequence : running_) {
    if (!sequence->decoding()) budget.KeepForPrefill(*sequence->owner());
  }
  PlanDecodes(budget, plans);
  budget.GiveBack();
  PlanPrefill(budget, plans);
  auto says_nothing = [](const v1::StepPlan& plan) { return plan.chunks().empty() && plan.release().empty(); };
  if (std::all_of(plans.begin(), plans.end(), says_nothing)) return std::nullopt;
  return plans;
}

std::vector<SequenceId> Scheduler::Ids() const {
  std::vector<SequenceId> ids;
  for (const auto& [id, sequence] : by_id_) ids.push_back(id);
  return ids;
}

void Scheduler::PlanDecodes(Budget& budget, std::vector<v1::StepPlan>& plans) {
  bool all_served = true;
  for (const auto& sequence : running_) {
    if (!sequence->decoding()) continue;
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
    if (sequence->decoding()) continue;
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

void Scheduler::AddChunk(Sequence& sequence, int rows, std::vector<v1::StepPlan>& plans) {
  v1::StepPlan& plan = plans[static_cast<size_t>(*sequence.owner())];
  if (!sequence.started()) *plan.add_start() = sequence.Start();
  *plan.add_chunks() = sequence.Chunk(rows);
}

void Scheduler::Free(Sequence& sequence) {
  group_->Release(*sequence.owner(), sequence.kv_blocks());
  if (sequence.started()) releases_[static_cast<size_t>(*sequence.owner())].push_back(sequence.id().value);
}

}  // namespace braid
