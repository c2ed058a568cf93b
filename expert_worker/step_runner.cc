#include "expert_worker/step_runner.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/plan_check.h"
#include "expert_worker/sampler.h"
#include "expert_worker/top_tokens.h"

namespace braid {
namespace {

// Prompt scores of a long chunk need a lot of logits once; more than this is given back after the step.
constexpr size_t kLogitsKeptMax = size_t{64} << 20 >> 2;  // 64 MiB of float32

// Whether the rows of this chunk score prompt tokens.
bool ScoresPrompt(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  return sequence.start.want_prompt_logprobs() && chunk.position() < sequence.start.prompt_tokens();
}

Chunk::Logits LogitsOf(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  if (ScoresPrompt(chunk, sequence) || chunk.drafts() > 0) return Chunk::Logits::kAll;
  return chunk.sample() ? Chunk::Logits::kLast : Chunk::Logits::kNone;
}

size_t LogitRows(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  const Chunk::Logits asked = LogitsOf(chunk, sequence);
  return asked == Chunk::Logits::kAll ? static_cast<size_t>(chunk.tokens_size()) : asked == Chunk::Logits::kLast;
}

}  // namespace

// One row of logits, or with drafts a row for each as well, and what becomes of it. Jobs of one step run in parallel,
// so each writes only what is its own; a sequence with drafts has no other job.
struct StepRunner::Job {
  OwnedSequence* sequence = nullptr;
  std::span<float> logits;  // (V) or (1 + drafts, V); may be overwritten
  uint32_t position = 0;    // of the token that the first row is about
  TokenId token = 0;        // the token there, when scoring
  v1::TokenLogprob* score = nullptr;
  v1::Sampled* sampled = nullptr;  // not null: sample, else score
  std::span<const TokenId> drafts = {};
};

StepRunner::StepRunner(const ModelConfig* config, const KvPool* kv, ThreadPool* pool, ForwardFn forward,
                       Options options)
    : config_(config),
      pool_(pool),
      forward_(std::move(forward)),
      options_(std::move(options)),
      table_(config, kv, options_.sequences_max, options_.snapshots_max) {}

absl::StatusOr<v1::StepDone> StepRunner::Run(const v1::StepPlan& plan, ExpertRunner& experts) {
  for (const uint64_t sequence : plan.release()) table_.Release(SequenceId(sequence));
  for (const uint64_t snapshot : plan.drop_snapshots()) table_.snapshots().Drop(snapshot);
  for (const v1::SequenceStart& start : plan.start()) RETURN_IF_ERROR(table_.Start(start));
  RETURN_IF_ERROR(CheckChunks(plan, *config_, options_.step_tokens_max, table_));

  for (const v1::SequenceChunk& chunk : plan.chunks()) table_.Note(chunk);
  RETURN_IF_ERROR(forward_(MakeChunks(plan), experts, &logits_));
  for (const v1::SequenceChunk& chunk : plan.chunks()) table_.Advance(chunk);
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    const std::span<const int32_t> blocks = table_.Find(SequenceId(chunk.sequence()))->cache.blocks;
    for (const v1::SnapshotSave& save : chunk.saves()) table_.snapshots().Close(save, blocks);
  }

  v1::StepDone done;
  RunJobs(MakeJobs(plan, &done));
  KeepForNextScore(plan);
  if (logits_.capacity() > kLogitsKeptMax) std::vector<float>().swap(logits_);
  return done;
}

std::vector<Chunk> StepRunner::MakeChunks(const v1::StepPlan& plan) {
  std::vector<Chunk> chunks;
  chunks.reserve(plan.chunks_size());
  saves_.clear();
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    for (const v1::SnapshotSave& save : chunk.saves()) {
      const uint32_t end = chunk.position() + static_cast<uint32_t>(chunk.tokens_size());
      const uint32_t position = Planted(Bug::kSavesColumnsOfChunkEnd) ? end : save.position();
      saves_.push_back({static_cast<int>(position), table_.snapshots().Open(save)});
    }
  }
  const ConvSave* saves = saves_.data();
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    OwnedSequence& sequence = *table_.Find(SequenceId(chunk.sequence()));
    chunks.push_back({.cache = &sequence.cache,
                      .position = static_cast<int>(chunk.position()),
                      .tokens = {chunk.tokens().data(), static_cast<size_t>(chunk.tokens_size())},
                      .logits = LogitsOf(chunk, sequence),
                      .saves = {saves, static_cast<size_t>(chunk.saves_size())}});
    saves += chunk.saves_size();
  }
  return chunks;
}

std::vector<StepRunner::Job> StepRunner::MakeJobs(const v1::StepPlan& plan, v1::StepDone* done) {
  std::vector<Job> jobs;
  float* row = logits_.data();
  const size_t V = static_cast<size_t>(config_->vocab_size);
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    OwnedSequence& sequence = *table_.Find(SequenceId(chunk.sequence()));
    if (ScoresPrompt(chunk, sequence)) AddPromptScores(chunk, sequence, row, &jobs, done);
    row += LogitRows(chunk, sequence) * V;
    if (!chunk.sample()) continue;
    const size_t drafts = chunk.drafts();
    const uint32_t sure = static_cast<uint32_t>(chunk.tokens_size()) - chunk.drafts();
    v1::Sampled* sampled = done->add_sampled();
    sampled->set_sequence(chunk.sequence());
    jobs.push_back({.sequence = &sequence,
                    .logits = {row - (1 + drafts) * V, (1 + drafts) * V},  // the chunk's last rows
                    .position = Planted(Bug::kRandomRestartsWithPrefill) && chunk.tokens_size() > 1
                                    ? sequence.start.prompt_tokens()
                                    : chunk.position() + sure,
                    .sampled = sampled,
                    .drafts = {chunk.tokens().data() + sure, drafts}});
  }
  CHECK_EQ(row - logits_.data(), static_cast<ptrdiff_t>(logits_.size())) << "forward gave other rows than asked for";
  return jobs;
}

// Scores of the prompt tokens that became known: the first token of the chunk by what the last chunk left behind, the
// others by the row before them. `rows`: the logits of the chunk.
void StepRunner::AddPromptScores(const v1::SequenceChunk& chunk, OwnedSequence& sequence, float* rows,
                                 std::vector<Job>* jobs, v1::StepDone* done) {
  const size_t V = static_cast<size_t>(config_->vocab_size);
  const uint32_t begin = chunk.position();
  const uint32_t first = std::max<uint32_t>(begin, 1);  // nothing comes before token 0
  const uint32_t end = std::min(begin + static_cast<uint32_t>(chunk.tokens_size()), sequence.start.prompt_tokens());
  if (first >= end) return;
  v1::PromptScores* scores = done->add_prompt_scores();
  scores->set_sequence(chunk.sequence());
  scores->set_position(first);
  for (uint32_t position = first; position < end; ++position) {
    float* const before = position > begin ? rows + (position - begin - 1) * V : sequence.score_next.data();
    jobs->push_back({.sequence = &sequence,
                     .logits = {before, V},
                     .position = position,
                     .token = chunk.tokens(static_cast<int>(position - begin)),
                     .score = scores->add_logprobs()});
  }
}

void StepRunner::RunJobs(const std::vector<Job>& jobs) {
  std::vector<absl::Status> results(jobs.size());
  pool_->ParallelFor(static_cast<int>(jobs.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) results[i] = jobs[i].sampled ? Sample(jobs[i]) : Score(jobs[i]);
  });
  // A row that is not finite fails its sequence, and the router hears of it with the next sample.
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!results[i].ok()) jobs[i].sequence->error = std::string(StdView(results[i].message()));
  }
  for (const Job& job : jobs) {
    if (!job.sampled || job.sequence->error.empty()) continue;
    job.sampled->mutable_token()->Clear();
    job.sampled->mutable_token()->set_token(-1);
    job.sampled->clear_more();
    job.sampled->set_error(job.sequence->error);
  }
}

absl::Status StepRunner::Sample(const Job& job) const {
  const size_t V = static_cast<size_t>(config_->vocab_size);
  v1::TokenLogprob* token = job.sampled->mutable_token();
  RETURN_IF_ERROR(SampleOne(*job.sequence, job.logits.first(V), job.position, token));
  const auto is_right = [&](size_t i) {
    return token->token() == job.drafts[i] || (Planted(Bug::kTakesAWrongDraft) && i == 1);
  };
  for (size_t i = 0; i < job.drafts.size() && is_right(i); ++i) {
    const std::span<float> row = job.logits.subspan((i + 1) * V, V);
    if (!AllFinite(row)) break;  // the next step finds that out, when the tokens before it are delivered
    if (Planted(Bug::kForgetsToCountDrafts)) {
      ++job.sequence->length;
    } else {
      job.sequence->Append(job.drafts[i]);
    }
    token = job.sampled->add_more();
    const uint32_t behind = Planted(Bug::kDraftsShareRandomNumber) ? 0 : static_cast<uint32_t>(i) + 1;
    RETURN_IF_ERROR(SampleOne(*job.sequence, row, job.position + behind, token));
  }
  return absl::OkStatus();
}

absl::Status StepRunner::SampleOne(const OwnedSequence& sequence, std::span<float> logits, uint32_t position,
                                   v1::TokenLogprob* out) const {
  const v1::SequenceStart& start = sequence.start;
  std::vector<float> raw;  // sampling overwrites
  if (start.want_logprobs()) raw.assign(logits.begin(), logits.end());
  ASSIGN_OR_RETURN(const TokenId token,
                   SampleToken(logits, start.sampling(), sequence.counts, options_.masked, position));
  out->set_token(token);
  if (start.want_logprobs()) WriteLogprob(raw, token, static_cast<int>(start.top_logprobs()), out);
  return absl::OkStatus();
}

absl::Status StepRunner::Score(const Job& job) const {
  job.score->set_token(job.token);
  if (!AllFinite(job.logits)) return absl::InternalError("the model's logits are not finite");
  std::vector<float> raw(job.logits.begin(), job.logits.end());
  WriteLogprob(raw, job.token, static_cast<int>(job.sequence->start.top_logprobs()), job.score);
  return absl::OkStatus();
}

void StepRunner::WriteLogprob(std::span<float> raw, TokenId token, int top, v1::TokenLogprob* out) const {
  const double log_sum = LogSumExp(raw);
  out->set_logprob(static_cast<float>(raw[token] - log_sum));
  if (top == 0) return;
  for (const TokenId masked : options_.masked) raw[masked] = -std::numeric_limits<float>::infinity();
  AddAlternatives(raw, log_sum, top, out);
}

// Scores leave their logits as they are, and a row inside of the prompt is not sampled from: the last row of such a
// chunk still is what the model said.
void StepRunner::KeepForNextScore(const v1::StepPlan& plan) {
  const float* row = logits_.data();
  const size_t V = static_cast<size_t>(config_->vocab_size);
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    OwnedSequence& sequence = *table_.Find(SequenceId(chunk.sequence()));
    row += LogitRows(chunk, sequence) * V;
    if (!ScoresPrompt(chunk, sequence)) continue;
    std::vector<float>().swap(sequence.score_next);
    if (sequence.length < static_cast<int>(sequence.start.prompt_tokens())) sequence.score_next.assign(row - V, row);
  }
}

}  // namespace braid
