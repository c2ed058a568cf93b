#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "router/draft_planner.h"
#include "router/group.h"
#include "router/sequence.h"
#include "router/step.h"

namespace braid {

// Continuous batching in one group: what each step computes of the sequences that run there.
//
// A sequence is admitted when an owner has room for all the KV blocks it may ever need; after that nothing can take
// memory from it, so a running sequence is never preempted.
//
// A step has a budget of rows over all workers, and each worker has its own. Decodes come first, one row each; a part
// of the budget is kept back for prefill while there is any, so that neither stops the other. Prompts are prefilled in
// chunks in the order they came; one that has had its turn (several chunks) goes behind the others that wait, so a long
// prompt delays the rest by at most a turn and still advances in every round. Rows that are left may go to drafts,
// where DraftPlanner finds that they pay.
//
// What a sequence has computed is kept for others that begin alike (KvLedger), by snapshots at the end of a block:
// at the end of its prompt, where the next turn of a conversation goes on, also one that drops old thinking; every few
// hundred tokens before that, where prompts part that have their instructions in common; and behind what is answered so
// far, for a turn that goes on behind the answer.
//
// When an epoch ends, sequences stay with the workers that hold their state, and go on in the next epoch from the last
// committed token; those whose owner is not in it come out, to be admitted anew.
//
// Pure: no clock, no I/O. Thread-compatible.
class Scheduler {
 public:
  struct Limits {
    int step_tokens = 0;        // rows of a step over all workers, >= kStepTokensMin
    int chunk_tokens = 0;       // rows of one sequence in a step, >= 1
    int sequences_max = 0;      // running at once, >= 1
    int drafts_max = 0;         // of one sequence in a step, in [0, DraftPlanner::kDraftsMax]
    int snapshot_tokens = 256;  // between snapshots inside of a prompt, >= 1
  };
  static constexpr int kStepTokensMin = 16;  // so that an eighth of it, for prefill, is not nothing
  static constexpr int kTurnChunks = 8;      // 2,048 tokens with the default chunk: most prompts need one turn

  explicit Scheduler(const Limits& limits) : limits_(limits), drafts_(limits.drafts_max) {}

  using Sequences = std::vector<std::unique_ptr<Sequence>>;

  // `group` is what runs from now on. `begins` gets, by rank, what goes on there, without the epoch. Returns those that
  // have lost their state. An epoch before, if any, is over.
  Sequences StartEpoch(Group group, std::vector<v1::Begin>* begins);
  // Nothing runs until the next epoch.
  void EndEpoch();
  // The owner has lost the state of these; unknown ids are ignored. REQUIRES: an epoch.
  Sequences Displace(const std::vector<SequenceId>& ids);
  // Gives up every sequence. REQUIRES: no epoch.
  Sequences DisplaceAll();

  Group* group() { return group_ ? &*group_ : nullptr; }
  const Group* group() const { return group_ ? &*group_ : nullptr; }

  // The owner for a sequence, nullopt if nobody has room now. REQUIRES: an epoch.
  std::optional<int> PickOwner(const Sequence& sequence) const;
  // How much of the sequence that owner knows, in tokens.
  int CachedTokens(const Sequence& sequence, int owner) const;
  // REQUIRES: PickOwner answered `owner`.
  void Admit(std::unique_ptr<Sequence> sequence, int owner);
  // Forgets a sequence, whatever a step in flight does with it; its memory is free for the next plan, which tells the
  // owner. nullptr if there is none of that id.
  std::unique_ptr<Sequence> Remove(SequenceId id);
  // nullptr if there is none. Valid until the next non-const call.
  Sequence* Find(SequenceId id) const;

  // The next step, one plan per rank without epoch and step number; nullopt if there is nothing to compute or to
  // release. The rows count as computed when OnComputed is called on the sequences, and what it saves is there when
  // CommitSaves is. Of sequences under serious suspicion at most one is in a step. REQUIRES: an epoch, no step in
  // flight.
  std::optional<std::vector<v1::StepPlan>> PlanStep();
  // The step behind `step`, which is in flight alone, if that is known to be one row for each sequence that runs, of
  // the token that `step` chooses. So it is while answers are written, and nullopt else: if somebody waits for rows; if
  // a sequence has drafts now, so that its length is open, or might well have some next; if a snapshot is to be saved,
  // whose last token is not known; if a sequence is suspected, so that a crash tells of one step only.
  std::optional<std::vector<v1::StepPlan>> PlanFollowUp(const Step& step);
  void CommitSaves();

  // What it learns for the next drafts: how long a step of so many rows took, and that `token` goes behind the log.
  void OnStep(int rows, absl::Duration time) { drafts_.OnStep(rows, time); }
  // How long a step of so many rows should take; nullopt if nothing is known yet.
  std::optional<absl::Duration> StepTime(int rows) const;
  void OnToken(Sequence& sequence, TokenId token) { drafts_.OnToken(sequence, token); }

  int running() const { return static_cast<int>(running_.size()); }
  std::vector<SequenceId> Ids() const;  // in no order

 private:
  class Budget;
  // What the workers are to forget.
  void AddReleases(std::vector<v1::StepPlan>& plans);
  void AddDrops(std::vector<v1::StepPlan>& plans);
  bool MightHaveDrafts(const Step& step);
  void PlanDecodes(Budget& budget, std::vector<v1::StepPlan>& plans);
  void PlanPrefill(Budget& budget, std::vector<v1::StepPlan>& plans);
  void PlanDrafts(Budget& budget, std::vector<v1::StepPlan>& plans);
  void AddChunk(Sequence& sequence, int rows, std::vector<v1::StepPlan>& plans);
  // Whether a snapshot of its state at `end`, the end of a block, is wanted.
  std::optional<KvLedger::Place> PlaceToSave(const Sequence& sequence, int end) const;
  // Drafts that there is room for behind its next token.
  int MostDrafts(const Sequence& sequence, int computed) const;
  void AddSaves(Sequence& sequence, v1::SequenceChunk* chunk);
  // Whether another suspect goes first, or it is on trial.
  bool HeldBack(const Sequence& sequence) const {
    return sequence.suspicion.on_trial() || (sequence.suspicion.serious() && sequence.id() != suspect_);
  }
  void Free(Sequence& sequence);

  const Limits limits_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order in which they are served
  absl::flat_hash_map<SequenceId, Sequence*> by_id_;
  std::optional<Group> group_;
  // Of the last group's workers: they hold what they held, also while no epoch runs.
  std::vector<std::pair<WorkerId, std::shared_ptr<KvLedger>>> ledgers_;
  std::vector<std::vector<uint64_t>> releases_;  // by rank: what its next plan tells it to forget
  DraftPlanner drafts_;
  SequenceId suspect_;  // the one that may run, of those under serious suspicion
};

}  // namespace braid
