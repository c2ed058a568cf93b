#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/sequence_table.h"
#include "kernels/thread_pool.h"
#include "model/chunk.h"
#include "model/config.h"
#include "model/engine.h"
#include "model/experts.h"
#include "model/sequence_states.h"

namespace braid {

// Carries out step plans on this worker's sequences. Knows no epoch, no clock and no network. Thread-compatible.
//
// With an engine that draws, a step can be started behind one that still runs: the device goes from one to the next
// while the host makes the answer of the first and the bookkeeping of the one after. It is then begun on the chance
// that the step before goes well and says no stop token. What comes out is what one step after the other gives:
//    Start(6)  Start(7: sequences 1 and 2 follow)  Finish() -> 6: 1 says x, 2 says a stop token
//              nothing of sequence 2 in step 7 ever was   Finish() -> 7: 1 says y
// A row that wants more than an engine draws (penalties, log probabilities, ...) is looked at by the host; what comes
// behind such a step waits for it.
class StepRunner {
 public:
  // Engine::Run and Engine::Logits, or stand-ins.
  using ForwardFn = std::function<absl::Status(std::span<const Chunk>, ExpertRunner&, std::vector<float>* logits)>;
  using LogitsFn = std::function<absl::Status(int begin, int end, std::vector<float>* logits)>;

  struct Options {
    int step_tokens_max = 1024;
    std::vector<TokenId> masked;  // ids that are never sampled: vocabulary rows without a token
  };

  // All pointers must outlive *this. With `logits` memory for few rows is enough: `forward` is given nowhere to write
  // them, and need not be done when it returns. With `drawer`, too, which is the engine behind both, or null if it does
  // not draw, tokens are drawn by that wherever it can.
  StepRunner(const ModelConfig* config, SequenceStates* states, ThreadPool* pool, ForwardFn forward, Options options,
             LogitsFn logits = nullptr, Engine* drawer = nullptr);
  ~StepRunner();

  // Everything of the plan: releases, drops, starts, then one forward pass over the chunks and what is sampled from it.
  // Fills sampled and prompt_scores. On an error the step is void, and nothing can be run until a Begin has said which
  // sequences go on. kInvalidArgument or kResourceExhausted if the plan contradicts itself or our state, else what
  // `experts` returned. REQUIRES: nothing is started.
  absl::StatusOr<v1::StepDone> Run(v1::StepPlan plan, ExpertRunner& experts);

  // The same in two halves: as much as can be done without waiting for a device, and the rest. What is wrong shows in
  // the second half. REQUIRES of Start: CanStart(plan).
  void Start(v1::StepPlan plan, ExpertRunner& experts);
  absl::StatusOr<v1::StepDone> Finish();  // the step that was started first. REQUIRES: there is one

  // Steps that are started and not finished; how many that can be: 1 where the engine does not draw.
  size_t started() const { return started_.size(); }
  size_t steps_at_once() const { return drawer_ ? Engine::kDrawsMax : 1; }
  // Whether a step can be started now: if none is, or if one is whose tokens are all drawn by the engine, and this one
  // touches none of its sequences but in the ways that can be taken back. Else what is started is to be finished first.
  bool CanStart(const v1::StepPlan& plan) const;
  // Whether Finish has no reason to wait for a draw. Also if what it has to do takes long.
  bool Drawn() const;

  // Brings the sequences to where this says, also after an error of a step; see SequenceTable::Keep. REQUIRES: nothing
  // is started, as for Clear.
  std::vector<uint64_t> Begin(const v1::Begin& begin);

  // Drops every sequence.
  void Clear();

  const SequenceTable& sequences() const { return table_; }

 private:
  struct Job;
  struct Started;

  // Start, but for what its Finish says.
  absl::Status Enqueue(Started* step, ExpertRunner& experts);
  absl::Status Complete(Started* step);
  // Gives the chunks that follow their tokens, and takes those out that have none.
  absl::Status FillIn(v1::StepPlan* plan);
  // The saves are opened.
  std::vector<Chunk> MakeChunks(const v1::StepPlan& plan);
  // What is to be done with the rows of logits, in their order; the jobs write into `done`.
  void MakeJobs(Started* step);
  void AddPromptScores(const v1::SequenceChunk& chunk, OwnedSequence& sequence, int first_row, std::vector<Job>* jobs,
                       v1::StepDone* done);
  bool CanDraw(const Job& job) const;
  static uint32_t PositionOf(const Job& job, int row);
  // Takes what was drawn for the step, and runs its jobs with that.
  absl::Status TakeDrawn(Started* step);
  // Of the sequence of a job, whose token this is. False if the step behind goes on with it. If that goes on though
  // nothing follows, the chunk never was.
  bool StandsStill(const OwnedSequence& sequence, TokenId token);
  void Withdraw(Started* step, uint64_t sequence);
  // What is started is void: its sequences stand where they stood.
  void VoidStarted();
  // From logits in our memory: piece by piece, if there is a function for that.
  absl::Status RunJobsOnHost(std::span<Job> jobs);
  void RunJobsOfPiece(std::span<const Job> jobs);
  // The tokens behind the chunk's last sure one, as far as its drafts are right; these are appended.
  absl::Status Sample(const Job& job) const;
  // The token behind a row of the job. The logits are changed on the way.
  absl::Status SampleRow(const Job& job, size_t row, v1::TokenLogprob* out) const;
  // One token, at `position`. The logits are changed on the way.
  absl::Status SampleOne(const OwnedSequence& sequence, std::span<float> logits, uint32_t position,
                         v1::TokenLogprob* out) const;
  absl::Status Score(const Job& job) const;
  void KeepForNextScore(const Job& job) const;
  // Sets log probability and alternatives. The logits are changed on the way.
  void WriteLogprob(std::span<float> logits, TokenId token, int top, v1::TokenLogprob* out) const;

  const ModelConfig* config_;
  ThreadPool* pool_;
  const ForwardFn forward_;
  const LogitsFn logits_fn_;
  Engine* const drawer_;
  const Options options_;
  SequenceTable table_;
  std::deque<std::unique_ptr<Started>> started_;  // the older one first
  std::vector<float> logits_;                     // (rows of a piece, V)
  std::vector<ColumnsSave> saves_;                // of the step's chunks, in their order
};

}  // namespace braid
