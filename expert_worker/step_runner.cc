#include "expert_worker/step_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/check.h"
#include "base/planted_bug.h"
#include "base/rng.h"
#include "base/status.h"
#include "expert_worker/logit_edits.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/plan_check.h"
#include "expert_worker/sampler.h"
#include "expert_worker/top_tokens.h"

namespace braid {
namespace {

// Rows of logits that are in memory at a time: 32 MiB for a vocabulary of 128K. As fast as all at once, since so many
// rows keep the head's multiplications busy for longer than its weights take to read.
constexpr int kPieceRows = 64;

// Whether the rows of this chunk score prompt tokens.
bool ScoresPrompt(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  return sequence.start.want_prompt_logprobs() && chunk.position() < sequence.start.prompt_tokens();
}

Chunk::Logits LogitsOf(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  if (ScoresPrompt(chunk, sequence) || chunk.drafts() > 0) return Chunk::Logits::kAll;
  return chunk.sample() ? Chunk::Logits::kLast : Chunk::Logits::kNone;
}

int LogitRows(const v1::SequenceChunk& chunk, const OwnedSequence& sequence) {
  const Chunk::Logits asked = LogitsOf(chunk, sequence);
  return asked == Chunk::Logits::kAll ? chunk.tokens_size() : asked == Chunk::Logits::kLast;
}

void SetFailed(const std::string& error, v1::Sampled* sampled) {
  sampled->mutable_token()->Clear();
  sampled->mutable_token()->set_token(-1);
  sampled->clear_more();
  sampled->set_error(error);
}

// Why a sequence cannot go on; as SampleToken says it.
constexpr char kNotFinite[] = "the model's logits are not finite";

}  // namespace

// One row of logits, or with drafts a row for each as well, and what becomes of it. Jobs of one step run in parallel,
// so each writes only what is its own; a sequence with drafts has no other job. Only what keeps a row waits for the
// others.
struct StepRunner::Job {
  OwnedSequence* sequence = nullptr;
  int first_row = 0, rows = 1;          // 0: sequence->score_next instead
  std::span<float> logits = {};         // (rows, V), once they are there; or
  std::span<const TokenId> drawn = {};  // (rows), -1: there was none to draw
  uint32_t position = 0;                // of the token that the first row is about
  TokenId token = 0;                    // the token there, when scoring
  v1::TokenLogprob* score = nullptr;
  v1::Sampled* sampled = nullptr;  // not null: sample, else score, else keep the row for the next score
  std::span<const TokenId> drafts = {};
};

// A step that is not finished.
struct StepRunner::Started {
  absl::Status status;  // not OK: it is void
  v1::StepPlan plan;
  v1::StepDone done;
  std::vector<Job> jobs;               // of the host
  std::vector<Job> drawing;            // of the engine; `sampled` is null where that was withdrawn
  std::vector<Engine::DrawnRow> rows;  // of `drawing`, in its order
  bool drawn = false;                  // Draw was called: there is something to take
  bool has_drafts = false;             // where its sequences will stand is not known
  // Those that have a chunk in it which was enqueued. Kept for engines that draw.
  absl::flat_hash_set<uint64_t> sequences;
};

// Of the token behind a row.
uint32_t StepRunner::PositionOf(const Job& job, int row) {
  return job.position + (Planted(Bug::kDraftsShareRandomNumber) ? 0 : static_cast<uint32_t>(row));
}

StepRunner::StepRunner(const ModelConfig* config, SequenceStates* states, ThreadPool* pool, ForwardFn forward,
                       Options options, LogitsFn logits, Engine* drawer)
    : config_(config),
      pool_(pool),
      forward_(std::move(forward)),
      logits_fn_(std::move(logits)),
      drawer_(drawer),
      options_(std::move(options)),
      table_(config, states) {
  CHECK(!drawer_ || (drawer_->draws() && logits_fn_));
}

StepRunner::~StepRunner() = default;

std::vector<uint64_t> StepRunner::Begin(const v1::Begin& begin) {
  CHECK(started_.empty());
  return table_.Keep(begin);
}

void StepRunner::Clear() {
  CHECK(started_.empty());
  table_.Clear();
}

absl::StatusOr<v1::StepDone> StepRunner::Run(v1::StepPlan plan, ExpertRunner& experts) {
  CHECK(started_.empty());
  Start(std::move(plan), experts);
  return Finish();
}

bool StepRunner::CanStart(const v1::StepPlan& plan) const {
  if (started_.empty()) return true;
  const Started& last = *started_.back();
  if (started() == steps_at_once() || !last.status.ok() || !last.drawn || last.has_drafts) return false;
  const auto is_in_last = [&](uint64_t sequence) { return last.sequences.contains(sequence); };
  // The engine may have to run the last step again: nobody else is to have its sequences' memory by then.
  if (plan.start_size() > 0 && std::ranges::any_of(plan.release(), is_in_last)) return false;
  // A chunk that does not follow ends what can be taken back of the one before; an id that is used again is another
  // sequence.
  return std::ranges::none_of(plan.chunks(), [&](const auto& c) { return !c.follows() && is_in_last(c.sequence()); }) &&
         std::ranges::none_of(plan.start(), [&](const auto& start) { return is_in_last(start.sequence()); });
}

bool StepRunner::Drawn() const {
  return started_.empty() || !started_.front()->status.ok() || !started_.front()->drawn || drawer_->Drawn();
}

void StepRunner::Start(v1::StepPlan plan, ExpertRunner& experts) {
  CHECK(CanStart(plan));
  Started& step = *started_.emplace_back(std::make_unique<Started>());
  step.plan = std::move(plan);
  step.status = Enqueue(&step, experts);
}

absl::StatusOr<v1::StepDone> StepRunner::Finish() {
  CHECK(!started_.empty());
  absl::Status status = started_.front()->status;
  if (status.ok()) status = Complete(started_.front().get());
  const std::unique_ptr<Started> step = std::move(started_.front());
  started_.pop_front();
  if (status.ok()) return std::move(step->done);
  for (const auto& behind : started_) behind->status = absl::AbortedError("the step before it failed");
  return status;
}

absl::Status StepRunner::Enqueue(Started* step, ExpertRunner& experts) {
  v1::StepPlan& plan = step->plan;
  for (const uint64_t sequence : plan.release()) table_.Release(SequenceId(sequence));
  for (const uint64_t snapshot : plan.drop_snapshots()) table_.snapshots().Drop(snapshot);
  for (const v1::SequenceStart& start : plan.start()) RETURN_IF_ERROR(table_.Start(start));
  RETURN_IF_ERROR(FillIn(&plan));
  RETURN_IF_ERROR(CheckChunks(plan, *config_, options_.step_tokens_max, table_));

  for (const v1::SequenceChunk& chunk : plan.chunks()) table_.Note(chunk);
  RETURN_IF_ERROR(forward_(MakeChunks(plan), experts, logits_fn_ ? nullptr : &logits_));
  for (const v1::SequenceChunk& chunk : plan.chunks()) table_.Advance(chunk);
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    const std::span<const int32_t> blocks = table_.Find(SequenceId(chunk.sequence()))->cache.blocks;
    for (const v1::SnapshotSave& save : chunk.saves()) table_.snapshots().Close(save, blocks);
  }
  MakeJobs(step);
  if (!drawer_) return absl::OkStatus();
  for (const v1::SequenceChunk& chunk : plan.chunks()) step->sequences.insert(chunk.sequence());
  // What the host has to look at comes first, see Engine::Draw.
  if (!step->jobs.empty()) return absl::OkStatus();
  step->drawn = true;
  return drawer_->Draw(step->rows);
}

absl::Status StepRunner::Complete(Started* step) {
  if (step->drawn) return TakeDrawn(step);
  if (logits_fn_ && (drawer_ || step->jobs.empty())) {  // the forward pass may not be done
    const absl::Status status = logits_fn_(0, 0, &logits_);
    if (!status.ok()) VoidStarted();
    RETURN_IF_ERROR(status);
  }
  RETURN_IF_ERROR(RunJobsOnHost(step->jobs));
  if (step->drawing.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(drawer_->Draw(step->rows));
  return TakeDrawn(step);
}

absl::Status StepRunner::TakeDrawn(Started* step) {
  std::vector<TokenId> tokens;
  if (absl::Status status = drawer_->TakeDrawn(&tokens); !status.ok()) {
    if (step->drawn) VoidStarted();
    return status;
  }
  CHECK_EQ(tokens.size(), step->rows.size());
  std::span<const TokenId> rest = tokens;
  std::vector<Job> ready, left;
  std::vector<OwnedSequence*> gone_on;
  for (Job& job : step->drawing) {
    const std::span<const TokenId> drawn = rest.first(static_cast<size_t>(job.rows));
    rest = rest.subspan(drawn.size());
    if (!job.sampled) continue;
    const TokenId token = drawn[0];
    OwnedSequence* const sequence = table_.Find(SequenceId(job.sampled->sequence()));
    if (!sequence) {  // the step behind has released it
      job.sampled->mutable_token()->set_token(token);
      if (token < 0) SetFailed(kNotFinite, job.sampled);
      continue;
    }
    const bool behind = started() > 1;
    if (behind && !StandsStill(*sequence, token)) {
      gone_on.push_back(sequence);
    } else {
      sequence->drawing = -1;
    }
    if (token >= 0) {
      ready.push_back(job);
      ready.back().drawn = drawn;
    } else if (!behind) {
      left.push_back(job);  // why there is none, is for us to find out
    } else {
      sequence->error = kNotFinite;
      sequence->next = token;
      SetFailed(kNotFinite, job.sampled);
    }
  }
  RunJobsOfPiece(ready);
  for (OwnedSequence* sequence : gone_on) sequence->next.reset();
  return RunJobsOnHost(left);
}

bool StepRunner::StandsStill(const OwnedSequence& sequence, TokenId token) {
  const uint64_t id = sequence.start.sequence();
  Started& behind = *started_[1];
  if (!behind.status.ok() || !behind.sequences.contains(id)) return true;
  if (sequence.error.empty() && sequence.MayFollow(token)) return false;
  Withdraw(&behind, id);
  return true;
}

void StepRunner::Withdraw(Started* step, uint64_t sequence) {
  const auto chunk = std::ranges::find(step->plan.chunks(), sequence, &v1::SequenceChunk::sequence);
  table_.Withdraw(*chunk);
  for (const v1::SnapshotSave& save : chunk->saves()) table_.snapshots().Drop(save.snapshot());
  step->sequences.erase(sequence);
  const auto is_its = [&](const v1::Sampled& sampled) { return sampled.sequence() == sequence; };
  for (Job& job : step->drawing) {
    if (job.sampled && is_its(*job.sampled)) job.sampled = nullptr;
  }
  auto& sampled = *step->done.mutable_sampled();
  if (const auto its = std::ranges::find_if(sampled, is_its); its != sampled.end()) sampled.erase(its);
}

void StepRunner::VoidStarted() {
  std::for_each(started_.rbegin(), started_.rend(), [this](const auto& step) {
    if (!step->status.ok()) return;  // did not get that far
    for (const v1::SequenceChunk& chunk : step->plan.chunks()) {
      OwnedSequence* const sequence = table_.Find(SequenceId(chunk.sequence()));
      if (sequence && step->sequences.contains(chunk.sequence())) sequence->length = static_cast<int>(chunk.position());
    }
  });
}

absl::Status StepRunner::FillIn(v1::StepPlan* plan) {
  int kept = 0;
  for (int i = 0; i < plan->chunks_size(); ++i) {
    v1::SequenceChunk& chunk = *plan->mutable_chunks(i);
    if (chunk.follows()) {
      const OwnedSequence* sequence = table_.Find(SequenceId(chunk.sequence()));
      const bool being_drawn = sequence && sequence->drawing >= 0;
      if (!sequence || (!sequence->next && !being_drawn) || !chunk.tokens().empty()) {
        return InvalidArgument(
            fmt::format("chunk of sequence {}: there is nothing that it follows, or it has tokens", chunk.sequence()));
      }
      if (!being_drawn && !sequence->MayFollow(*sequence->next)) continue;
      const int wrong = Planted(Bug::kFollowsAnotherToken) ? 1 : 0;
      chunk.add_tokens(being_drawn ? 0 : *sequence->next + wrong);  // 0: holds the place
    }
    plan->mutable_chunks()->SwapElements(kept++, i);
  }
  plan->mutable_chunks()->DeleteSubrange(kept, plan->chunks_size() - kept);
  return absl::OkStatus();
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
  const ColumnsSave* saves = saves_.data();
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    OwnedSequence& sequence = *table_.Find(SequenceId(chunk.sequence()));
    chunks.push_back({.cache = &sequence.cache,
                      .position = static_cast<int>(chunk.position()),
                      .tokens = {chunk.tokens().data(), static_cast<size_t>(chunk.tokens_size())},
                      .logits = LogitsOf(chunk, sequence),
                      .saves = {saves, static_cast<size_t>(chunk.saves_size())},
                      .drawn = chunk.follows() ? sequence.drawing : -1});
    saves += chunk.saves_size();
  }
  return chunks;
}

void StepRunner::MakeJobs(Started* step) {
  v1::StepDone* const done = &step->done;
  std::vector<Job>& jobs = step->jobs;
  int row = 0;
  for (const v1::SequenceChunk& chunk : step->plan.chunks()) {
    OwnedSequence& sequence = *table_.Find(SequenceId(chunk.sequence()));
    if (ScoresPrompt(chunk, sequence)) AddPromptScores(chunk, sequence, row, &jobs, done);
    row += LogitRows(chunk, sequence);
    if (!chunk.sample()) continue;
    const uint32_t drafts = chunk.drafts(), sure = static_cast<uint32_t>(chunk.tokens_size()) - drafts;
    const int rows = 1 + static_cast<int>(drafts);
    v1::Sampled* sampled = done->add_sampled();
    sampled->set_sequence(chunk.sequence());
    jobs.push_back({.sequence = &sequence,
                    .first_row = row - rows,  // the chunk's last ones
                    .rows = rows,
                    .position = Planted(Bug::kRandomRestartsWithPrefill) && chunk.tokens_size() > 1
                                    ? sequence.start.prompt_tokens()
                                    : chunk.position() + sure,
                    .sampled = sampled,
                    .drafts = {chunk.tokens().data() + sure, drafts}});
    if (!CanDraw(jobs.back())) continue;
    sequence.drawing = static_cast<int>(step->rows.size());
    step->has_drafts |= drafts > 0;
    step->drawing.push_back(jobs.back());
    jobs.pop_back();
    const v1::SamplingParams& params = sequence.start.sampling();
    for (int i = 0; i < rows; ++i) {
      step->rows.push_back({.row = row - rows + i,
                            .temperature = params.temperature(),
                            .top_k = static_cast<int>(params.top_k()),
                            .top_p = params.top_p(),
                            .min_p = params.min_p(),
                            .uniform = UniformAt(params.seed(), params.choice(), PositionOf(step->drawing.back(), i))});
    }
  }
  if (!logits_fn_) {
    CHECK_EQ(logits_.size(), static_cast<size_t>(row) * static_cast<size_t>(config_->vocab_size))
        << "forward gave other rows than asked for";
  }
}

// Scores of the prompt tokens that became known: the first token of the chunk by what the last chunk left behind, the
// others by the row before them. The last row is left for the next chunk. `first_row`: of the chunk.
void StepRunner::AddPromptScores(const v1::SequenceChunk& chunk, OwnedSequence& sequence, int first_row,
                                 std::vector<Job>* jobs, v1::StepDone* done) {
  const uint32_t begin = chunk.position();
  const uint32_t first = std::max<uint32_t>(begin, 1);  // nothing comes before token 0
  const uint32_t end = std::min(begin + static_cast<uint32_t>(chunk.tokens_size()), sequence.start.prompt_tokens());
  v1::PromptScores* scores = nullptr;
  if (first < end) {
    scores = done->add_prompt_scores();
    scores->set_sequence(chunk.sequence());
    scores->set_position(first);
  }
  for (uint32_t position = first; position < end; ++position) {
    const int index = static_cast<int>(position - begin);
    jobs->push_back({.sequence = &sequence,
                     .first_row = first_row + std::max(index - 1, 0),
                     .rows = index > 0,
                     .position = position,
                     .token = chunk.tokens(index),
                     .score = scores->add_logprobs()});
  }
  jobs->push_back({.sequence = &sequence, .first_row = first_row + chunk.tokens_size() - 1});
}

// Nobody wants more of its rows than tokens, and these depend on the rows alone.
bool StepRunner::CanDraw(const Job& job) const {
  if (!drawer_ || job.sampled == nullptr || job.sequence->start.want_logprobs()) return false;
  const v1::SamplingParams& params = job.sequence->start.sampling();
  return !UsesCounts(params) && params.logit_bias().empty();
}

absl::Status StepRunner::RunJobsOnHost(std::span<Job> jobs) {
  const size_t V = static_cast<size_t>(config_->vocab_size);
  for (size_t begin = 0, end; begin < jobs.size(); begin = end) {
    const int first_row = logits_fn_ ? jobs[begin].first_row : 0;
    int end_row = first_row;
    for (end = begin; end < jobs.size(); ++end) {
      const int job_end = jobs[end].first_row + jobs[end].rows;
      if (logits_fn_ && end > begin && job_end - first_row > kPieceRows) break;
      end_row = std::max(end_row, job_end);
    }
    if (logits_fn_) {
      RETURN_IF_ERROR(logits_fn_(first_row, end_row, &logits_));
      CHECK_EQ(logits_.size(), static_cast<size_t>(end_row - first_row) * V);
    }
    for (Job& job : jobs.subspan(begin, end - begin)) {
      float* const row = logits_.data() + static_cast<size_t>(job.first_row - first_row) * V;
      job.logits =
          job.rows > 0 ? std::span(row, static_cast<size_t>(job.rows) * V) : std::span(job.sequence->score_next);
    }
    RunJobsOfPiece(jobs.subspan(begin, end - begin));
  }
  return absl::OkStatus();
}

void StepRunner::RunJobsOfPiece(std::span<const Job> jobs) {
  std::vector<absl::Status> results(jobs.size());
  pool_->ParallelFor(static_cast<int>(jobs.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      if (jobs[i].sampled) results[i] = Sample(jobs[i]);
      if (jobs[i].score) results[i] = Score(jobs[i]);
    }
  });
  // A row that is not finite fails its sequence, and the router hears of it with the next sample.
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!results[i].ok()) jobs[i].sequence->error = std::string(StdView(results[i].message()));
  }
  for (const Job& job : jobs) {
    if (job.sampled && !job.sequence->error.empty()) {
      SetFailed(job.sequence->error, job.sampled);
    }
    if (job.sampled) {
      const auto& more = job.sampled->more();
      job.sequence->next = more.empty() ? job.sampled->token().token() : more.rbegin()->token();
    }
    if (!job.sampled && !job.score) KeepForNextScore(job);
  }
}

void StepRunner::KeepForNextScore(const Job& job) const {
  OwnedSequence& sequence = *job.sequence;
  std::vector<float>().swap(sequence.score_next);
  const bool more = sequence.length < static_cast<int>(sequence.start.prompt_tokens());
  if (more) sequence.score_next.assign(job.logits.begin(), job.logits.end());
}

absl::Status StepRunner::Sample(const Job& job) const {
  const size_t V = static_cast<size_t>(config_->vocab_size);
  v1::TokenLogprob* token = job.sampled->mutable_token();
  RETURN_IF_ERROR(SampleRow(job, 0, token));
  const auto is_right = [&](size_t i) {
    return token->token() == job.drafts[i] || (Planted(Bug::kTakesAWrongDraft) && i == 1);
  };
  const auto is_finite = [&](size_t row) {
    return job.drawn.empty() ? AllFinite(job.logits.subspan(row * V, V)) : job.drawn[row] >= 0;
  };
  for (size_t i = 0; i < job.drafts.size() && is_right(i); ++i) {
    if (!is_finite(i + 1)) break;  // the next step finds that out, when the tokens before it are delivered
    if (Planted(Bug::kForgetsToCountDrafts)) {
      ++job.sequence->length;
    } else {
      job.sequence->Append(job.drafts[i]);
    }
    token = job.sampled->add_more();
    RETURN_IF_ERROR(SampleRow(job, i + 1, token));
  }
  return absl::OkStatus();
}

absl::Status StepRunner::SampleRow(const Job& job, size_t row, v1::TokenLogprob* out) const {
  if (!job.drawn.empty()) {
    out->set_token(job.drawn[row]);
    return absl::OkStatus();
  }
  const size_t V = static_cast<size_t>(config_->vocab_size);
  return SampleOne(*job.sequence, job.logits.subspan(row * V, V), PositionOf(job, static_cast<int>(row)), out);
}

absl::Status StepRunner::SampleOne(const OwnedSequence& sequence, std::span<float> logits, uint32_t position,
                                   v1::TokenLogprob* out) const {
  const v1::SequenceStart& start = sequence.start;
  ASSIGN_OR_RETURN(const TokenId token,
                   SampleToken(logits, start.sampling(), sequence.counts, options_.masked, position));
  out->set_token(token);
  if (start.want_logprobs()) WriteLogprob(logits, token, static_cast<int>(start.top_logprobs()), out);
  return absl::OkStatus();
}

absl::Status StepRunner::Score(const Job& job) const {
  job.score->set_token(job.token);
  if (!AllFinite(job.logits)) return absl::InternalError(kNotFinite);
  WriteLogprob(job.logits, job.token, static_cast<int>(job.sequence->start.top_logprobs()), job.score);
  return absl::OkStatus();
}

void StepRunner::WriteLogprob(std::span<float> logits, TokenId token, int top, v1::TokenLogprob* out) const {
  const double log_sum = LogSumExp(logits);
  out->set_logprob(static_cast<float>(logits[token] - log_sum));
  if (top == 0) return;
  thread_local std::vector<ScoredToken> saved;
  LogitEdits edits(logits, &saved);
  for (const TokenId masked : options_.masked) edits.Set(masked, -std::numeric_limits<float>::infinity());
  AddAlternatives(logits, log_sum, top, out);
}

}  // namespace braid
