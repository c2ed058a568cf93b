#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "router/group.h"
#include "router/sequence.h"

namespace braid {

// Continuous batching: which sequences run, where, and what each step computes.
//
// A sequence waits in one bounded first-come queue until an owner has room for all the KV blocks it may ever need;
// after that nothing can take memory from it, so a running sequence is never preempted. The head of the queue is never
// overtaken: a large request waits for room, but not behind smaller ones that came later.
//
// A step has a budget of rows over all workers, and each worker has its own. Decodes come first, one row each; a part
// of the budget is kept back for prefill while there is any, so that neither stops the other. Prompts are prefilled in
// chunks in the order they came; one that has had its turn (several chunks) goes behind the others that wait, so a long
// prompt delays the rest by at most a turn and still advances in every round.
//
// Pure: no clock, no I/O. Thread-compatible.
class Scheduler {
 public:
  struct Limits {
    int step_tokens = 0;    // rows of a step over all workers, >= kStepTokensMin
    int chunk_tokens = 0;   // rows of one sequence in a step, >= 1
    int sequences_max = 0;  // running at once, >= 1
    int queue_max = 0;      // waiting, >= 0
  };
  static constexpr int kStepTokensMin = 16;  // so that an eighth of it, for prefill, is not nothing
  static constexpr int kTurnChunks = 8;      // 2,048 tokens with the default chunk: most prompts need one turn

  explicit Scheduler(const Limits& limits) : limits_(limits) {}

  // kResourceExhausted if the queue is full. REQUIRES: an id never seen before.
  absl::Status Enqueue(std::unique_ptr<Sequence> sequence);
  // Forgets a waiting or running sequence, whatever a step in flight does with it; its memory is free for the next
  // plan, which tells the owner. nullptr if there is none of that id.
  std::unique_ptr<Sequence> Remove(SequenceId id);
  // nullptr if there is none. Valid until the next non-const call.
  Sequence* Find(SequenceId id) const;

  // Before this nothing runs. REQUIRES: no epoch.
  void StartEpoch(Group group);
  // Every running sequence waits again, before those that were waiting, in the order they came. Returns how many.
  int EndEpoch();
  const Group* group() const { return group_ ? &*group_ : nullptr; }

  // Moves waiting sequences to owners with room; returns the newly admitted. REQUIRES: an epoch.
  std::vector<Sequence*> Admit();
  // The next step, one plan per rank without epoch and step number; nullopt if there is nothing to compute or to
  // release. The rows count as computed when OnComputed is called on the sequences. REQUIRES: an epoch, no step in
  // flight.
  std::optional<std::vector<v1::StepPlan>> PlanStep();

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  std::vector<SequenceId> Ids() const;  // waiting and running, in no order

 private:
  class Budget;
  void PlanDecodes(Budget& budget, std::vector<v1::StepPlan>& plans);
  void PlanPrefill(Budget& budget, std::vector<v1::StepPlan>& plans);
  void AddChunk(Sequence& sequence, int rows, std::vector<v1::StepPlan>& plans);
  void Free(Sequence& sequence);

  const Limits limits_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order in which they are served
  absl::flat_hash_map<SequenceId, Sequence*> by_id_;
  std::optional<Group> group_;
  std::vector<std::vector<uint64_t>> releases_;  // by rank: what its next plan tells it to forget
};

}  // namespace braid
