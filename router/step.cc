#include "router/step.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "router/validate.h"

namespace braid {

Step::Step(uint64_t number, const std::vector<v1::StepPlan>& plans, absl::Time begun)
    : number_(number), begun_(begun), ranks_(plans.size()) {
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    for (const v1::SequenceChunk& chunk : plans[rank].chunks()) {
      ranks_[rank].chunks.push_back({.sequence = SequenceId(chunk.sequence()),
                                     .position = static_cast<int>(chunk.position()),
                                     .rows = chunk.follows() ? 1 : chunk.tokens_size(),
                                     .sample = chunk.sample(),
                                     .follows = chunk.follows(),
                                     .drafts = {chunk.tokens().end() - chunk.drafts(), chunk.tokens().end()}});
      ranks_[rank].chunks.back().computed = ranks_[rank].chunks.back().sure_rows();
    }
  }
}

int Step::rows() const {
  int rows = 0;
  for (const Rank& rank : ranks_) rows += rank.rows();
  return rows;
}

int Step::rows_max() const {
  int rows = 0;
  for (const Rank& rank : ranks_) rows = std::max(rows, rank.rows());
  return rows;
}

int Step::Rank::rows() const {
  int rows = 0;
  for (const Chunk& chunk : chunks) rows += chunk.rows;
  return rows;
}

absl::Status Step::OnDone(int rank, v1::StepDone done, const v1::Hello& worker) {
  Rank& answer = ranks_[static_cast<size_t>(rank)];
  if (done.step() != number_) {
    return InvalidArgument(absl::StrCat("step_done is for step ", done.step(), "; step ", number_, " is in flight"));
  }
  if (answer.done) return InvalidArgument(absl::StrCat("step_done for step ", number_, " came twice"));
  RETURN_IF_ERROR(CheckSampled(answer, done, worker.vocab_size()));
  RETURN_IF_ERROR(CheckScores(answer, done, worker.vocab_size()));
  if (static_cast<uint64_t>(done.expert_rows_size()) > uint64_t{worker.moe_layers()} * worker.expert_count()) {
    return InvalidArgument(absl::StrCat("step_done.expert_rows has ", done.expert_rows_size(),
                                        " entries; the model has ", worker.moe_layers(), " layers of ",
                                        worker.expert_count(), " experts"));
  }
  int next = 0;
  for (Chunk& chunk : answer.chunks) {
    if (LeftOut(chunk, done, next)) {
      chunk.rows = chunk.computed = 0;
    } else if (chunk.sample) {
      chunk.computed += done.sampled(next++).more_size();
    }
    if (Planted(Bug::kCountsRejectedDrafts)) chunk.computed = chunk.rows;
  }
  answer.done = std::move(done);
  ++answers_;
  return absl::OkStatus();
}

bool Step::LeftOut(const Chunk& chunk, const v1::StepDone& done, int next) {
  if (!chunk.follows) return false;
  return next == done.sampled_size() || done.sampled(next).sequence() != chunk.sequence.value;
}

absl::Status Step::CheckSampled(const Rank& rank, const v1::StepDone& done, uint32_t vocab_size) {
  int next = 0;
  for (const Chunk& chunk : rank.chunks) {
    if (!chunk.sample || LeftOut(chunk, done, next)) continue;
    if (next == done.sampled_size() || done.sampled(next).sequence() != chunk.sequence.value) {
      return InvalidArgument(absl::StrCat("step_done.sampled[", next, "] should be sequence ", chunk.sequence.value));
    }
    RETURN_IF_ERROR(Annotate(CheckSampled(chunk, done.sampled(next++), vocab_size), "step_done.sampled"));
  }
  if (next == done.sampled_size()) return absl::OkStatus();
  return InvalidArgument(
      absl::StrCat("step_done.sampled has ", done.sampled_size(), " entries; ", next, " were asked"));
}

absl::Status Step::CheckSampled(const Chunk& chunk, const v1::Sampled& sampled, uint32_t vocab_size) {
  if (static_cast<size_t>(sampled.more_size()) > chunk.drafts.size()) {
    return InvalidArgument(absl::StrCat(sampled.more_size(), " more tokens behind ", chunk.drafts.size(), " drafts"));
  }
  if (!sampled.error().empty()) {
    return sampled.more().empty() ? absl::OkStatus() : InvalidArgument("an error, and more tokens");
  }
  RETURN_IF_ERROR(CheckLogprob(sampled.token(), vocab_size));
  TokenId before = sampled.token().token();
  for (int i = 0; i < sampled.more_size(); ++i) {
    if (before != chunk.drafts[static_cast<size_t>(i)]) return InvalidArgument("a token behind a draft that was wrong");
    RETURN_IF_ERROR(CheckLogprob(sampled.more(i), vocab_size));
    before = sampled.more(i).token();
  }
  return absl::OkStatus();
}

absl::Status Step::CheckScores(const Rank& rank, const v1::StepDone& done, uint32_t vocab_size) {
  for (const v1::PromptScores& scores : done.prompt_scores()) {
    auto chunk = std::find_if(rank.chunks.begin(), rank.chunks.end(),
                              [&](const Chunk& c) { return c.sequence.value == scores.sequence(); });
    if (chunk == rank.chunks.end()) {
      return InvalidArgument(absl::StrCat("step_done.prompt_scores names sequence ", scores.sequence(),
                                          ", which had no rows in the step"));
    }
    // The logits of the last row score the token behind it, in this step or in the next.
    const uint64_t end = static_cast<uint64_t>(scores.position()) + static_cast<uint64_t>(scores.logprobs_size());
    if (end > static_cast<uint64_t>(chunk->position + chunk->rows) + 1) {
      return InvalidArgument("step_done.prompt_scores go beyond the rows of the step");
    }
    for (const v1::TokenLogprob& logprob : scores.logprobs()) {
      RETURN_IF_ERROR(Annotate(CheckLogprob(logprob, vocab_size), "step_done.prompt_scores"));
    }
  }
  return absl::OkStatus();
}

}  // namespace braid
