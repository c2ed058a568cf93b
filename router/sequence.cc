#include "router/sequence.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "router/quarantine.h"

namespace braid {

namespace {

// Then the worker counts tokens.
bool HasPenalties(const v1::SamplingParams& sampling) {
  return sampling.repetition_penalty() != 1 || sampling.presence_penalty() != 0 || sampling.frequency_penalty() != 0;
}

}  // namespace

void Suspicion::OnCrash(int position, int rows, Crash crash) {
  // On the way back to where it was: another crash than that one.
  if (!crashes.empty() && position + rows <= begin) return;
  crashes.push_back(std::move(crash));
  begin = position;
  end = position + rows;
}

void Suspicion::OnReturn(const Crash& no_crash) {
  std::erase_if(crashes, [&](const Crash& c) { return c.epoch == no_crash.epoch && c.worker == no_crash.worker; });
  if (!serious()) verdict_at = absl::InfiniteFuture();
}

Sequence::Sequence(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time arrived)
    : id_(id),
      arrived_(arrived),
      fingerprint_(Quarantine::Fingerprint(request)),
      sampling_(request.sampling()),
      stop_tokens_(request.stop_tokens().begin(), request.stop_tokens().end()),
      log_(request.prompt().begin(), request.prompt().end()),
      prompt_tokens_(request.prompt_size()),
      max_new_tokens_(request.max_new_tokens()),
      top_logprobs_(request.top_logprobs()),
      cache_scope_(request.cache_scope()),
      no_cache_(request.no_cache()),
      want_logprobs_(request.want_logprobs()),
      // All of the prompt's came before the first token of the earlier call.
      want_prompt_logprobs_(request.want_prompt_logprobs() && request.generated().empty()) {
  log_.insert(log_.end(), request.generated().begin(), request.generated().end());
  prefill_tokens_ = static_cast<int>(log_.size());
}

std::optional<v1::SequenceFinished::Reason> Sequence::Finished() const {
  if (answer_tokens() == 0) return std::nullopt;
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), log_.back()) != stop_tokens_.end()) {
    return v1::SequenceFinished::REASON_STOP;
  }
  if (static_cast<uint32_t>(answer_tokens()) >= max_new_tokens_) return v1::SequenceFinished::REASON_LENGTH;
  return std::nullopt;
}

void Sequence::OnComputed(int rows) {
  computed_ += rows;
  start_committed_ = true;
  lease_.OnStarted();
}

Beginning Sequence::First(int tokens, int block_tokens) const {
  if (no_cache_) return {};
  ExtendHashes(cache_scope_, log_, block_tokens, &hashes_);
  return {cache_scope_, std::span(log_).first(static_cast<size_t>(tokens)),
          std::span(hashes_).first(static_cast<size_t>(tokens / block_tokens))};
}

Beginning Sequence::Resumable(int block_tokens) const {
  if (scores_missing()) return {};
  return First((static_cast<int>(log_.size()) - 1) / block_tokens * block_tokens, block_tokens);
}

void Sequence::Place(int rank, KvLease lease) {
  CHECK(!owner_ && !home_);
  owner_ = rank;
  lease_ = std::move(lease);
  computed_ = lease_.resumed_tokens();
  prefill_tokens_ = static_cast<int>(log_.size());
  if (!cached_tokens_) cached_tokens_ = std::min(computed_, prompt_tokens_);
}

void Sequence::Park(WorkerId home) {
  CHECK(owner_);
  owner_.reset();
  home_ = home;
  started_ = start_committed_;  // a start in a void step never happened
}

void Sequence::Return(int rank) {
  CHECK(home_);
  home_.reset();
  owner_ = rank;
}

void Sequence::Displace() {
  owner_.reset();
  home_.reset();
  lease_.Reset();
  computed_ = 0;
  started_ = start_committed_ = false;
  turn_tokens = 0;
}

v1::SequenceStart Sequence::Start() {
  CHECK(owner_ && !started_);
  started_ = true;
  v1::SequenceStart start;
  start.set_sequence(id_.value);
  *start.mutable_sampling() = sampling_;
  start.set_prompt_tokens(static_cast<uint32_t>(prompt_tokens_));
  start.set_kv_blocks(static_cast<uint32_t>(lease_.blocks()));
  start.set_want_logprobs(want_logprobs_);
  start.set_top_logprobs(top_logprobs_);
  start.set_want_prompt_logprobs(scores_missing());
  start.set_resume(lease_.resume().value);
  start.mutable_stop_tokens()->Add(stop_tokens_.begin(), stop_tokens_.end());
  if (HasPenalties(sampling_)) start.mutable_resumed_tokens()->Add(log_.begin(), log_.begin() + computed_);
  return start;
}

v1::SequenceChunk Sequence::Chunk(int rows) const {
  CHECK(rows >= 1 && rows <= remaining());
  v1::SequenceChunk chunk;
  chunk.set_sequence(id_.value);
  chunk.set_position(static_cast<uint32_t>(computed_));
  auto first = log_.begin() + computed_;
  chunk.mutable_tokens()->Add(first, first + rows);
  chunk.set_sample(rows == remaining());
  return chunk;
}

}  // namespace braid
