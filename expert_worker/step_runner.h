#pragma once

#include <functional>
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
class StepRunner {
 public:
  // Engine::Run, Engine::Logits and Engine::Draw, or stand-ins.
  using ForwardFn = std::function<absl::Status(std::span<const Chunk>, ExpertRunner&, std::vector<float>* logits)>;
  using LogitsFn = std::function<absl::Status(int begin, int end, std::vector<float>* logits)>;
  using DrawFn = std::function<absl::Status(std::span<const Engine::DrawnRow>, std::vector<TokenId>*)>;

  struct Options {
    int step_tokens_max = 1024;
    std::vector<TokenId> masked;  // ids that are never sampled: vocabulary rows without a token
  };

  // All pointers must outlive *this. With `logits` memory for few rows is enough: `forward` is given nowhere to write
  // them, and need not be done when it returns. With `draw`, too, tokens are drawn by it wherever it can.
  StepRunner(const ModelConfig* config, SequenceStates* states, ThreadPool* pool, ForwardFn forward, Options options,
             LogitsFn logits = nullptr, DrawFn draw = nullptr);

  // Everything of the plan: releases, drops, starts, then one forward pass over the chunks and what is sampled from it.
  // Fills sampled and prompt_scores. On an error the step is void, and nothing can be run until a Begin has said which
  // sequences go on. kInvalidArgument or kResourceExhausted if the plan contradicts itself or our state, else what
  // `experts` returned.
  absl::StatusOr<v1::StepDone> Run(v1::StepPlan plan, ExpertRunner& experts);

  // Brings the sequences to where this says, also after an error of Run; see SequenceTable::Keep.
  std::vector<uint64_t> Begin(const v1::Begin& begin) { return table_.Keep(begin); }

  // Drops every sequence.
  void Clear() { table_.Clear(); }

  const SequenceTable& sequences() const { return table_; }

 private:
  struct Job;

  // Gives the chunks that follow their tokens, and takes those out that have none.
  absl::Status FillIn(v1::StepPlan* plan);
  // The saves are opened.
  std::vector<Chunk> MakeChunks(const v1::StepPlan& plan);
  // What is to be done with the rows of logits, in their order; the jobs write into `done`.
  std::vector<Job> MakeJobs(const v1::StepPlan& plan, v1::StepDone* done);
  void AddPromptScores(const v1::SequenceChunk& chunk, OwnedSequence& sequence, int first_row, std::vector<Job>* jobs,
                       v1::StepDone* done);
  // Returns once the forward pass is done, too.
  absl::Status RunJobs(std::span<Job> jobs);
  // Those of the jobs whose tokens draw_fn_ draws; the others go to `on_host`.
  absl::Status DrawJobs(std::span<Job> jobs, std::vector<Job>* on_host);
  static bool CanDraw(const Job& job);
  static uint32_t PositionOf(const Job& job, int row);
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
  const DrawFn draw_fn_;
  const Options options_;
  SequenceTable table_;
  std::vector<float> logits_;       // (rows of a piece, V)
  std::vector<TokenId> drawn_;      // by draw_fn_, of the rows of the jobs that it ran
  std::vector<ColumnsSave> saves_;  // of the step's chunks, in their order
};

}  // namespace braid
