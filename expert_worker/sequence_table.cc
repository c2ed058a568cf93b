#include "expert_worker/sequence_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr uint32_t kTopLogprobsMax = 20;

absl::Status CheckStart(const v1::SequenceStart& start, const ModelConfig& config, int blocks_total) {
  if (start.prompt_tokens() < 1) return InvalidArgument("prompt_tokens is 0");
  if (start.prompt_tokens() > static_cast<uint32_t>(config.context_tokens_max)) {
    return InvalidArgument(
        fmt::format("prompt_tokens is {}, the context has {}", start.prompt_tokens(), config.context_tokens_max));
  }
  if (start.kv_blocks() < 1 || start.kv_blocks() > static_cast<uint32_t>(blocks_total)) {
    return InvalidArgument(fmt::format("kv_blocks is {}, the pool has {}", start.kv_blocks(), blocks_total));
  }
  if (start.top_logprobs() > kTopLogprobsMax) {
    return InvalidArgument(fmt::format("top_logprobs is {}, at most {}", start.top_logprobs(), kTopLogprobsMax));
  }
  return CheckSampling(start.sampling(), config.vocab_size);
}

}  // namespace

void OwnedSequence::Append(TokenId token) {
  if (UsesCounts(start.sampling())) {
    counts.Add(token, InAnswer(length));
    last_chunks.back().counted.push_back(token);
  }
  ++length;
}

bool OwnedSequence::MayFollow(TokenId token) const {
  return token >= 0 &&
         std::find(start.stop_tokens().begin(), start.stop_tokens().end(), token) == start.stop_tokens().end();
}

SequenceTable::SequenceTable(const ModelConfig* config, SequenceStates* states)
    : config_(config),
      states_(states),
      blocks_(states->sizes().blocks),
      conv_slots_(states->sizes().sequences),
      conv_copies_(states->sizes().copies()),
      snapshots_(&blocks_, &conv_copies_, states->sizes().snapshots) {}

absl::Status SequenceTable::Start(const v1::SequenceStart& start) {
  const SequenceId id(start.sequence());
  const std::string context = fmt::format("start of sequence {}", id.value);
  RETURN_IF_ERROR(Annotate(CheckStart(start, *config_, blocks_.total()), context));
  if (sequences_.contains(id)) return InvalidArgument(context + ": it is here already");
  if (size() >= states_->sizes().sequences)
    return absl::ResourceExhaustedError(fmt::format("{}: {} are here already", context, size()));
  RETURN_IF_ERROR(Annotate(CheckResume(start), context));
  const SnapshotStore::Snapshot* const shared = snapshots_.Find(start.resume());
  const int own = static_cast<int>(start.kv_blocks()) - (shared ? static_cast<int>(shared->blocks.size()) : 0);
  absl::StatusOr<std::vector<int32_t>> blocks = blocks_.Allocate(own);
  if (!blocks.ok()) return Annotate(blocks.status(), context);
  OwnedSequence& sequence = sequences_[id];
  sequence.start = start;
  sequence.cache = {*std::move(blocks), conv_slots_.Take()};
  if (shared) Resume(*shared, &sequence);
  return absl::OkStatus();
}

absl::Status SequenceTable::CheckResume(const v1::SequenceStart& start) const {
  if (start.resume() == 0) return absl::OkStatus();
  const SnapshotStore::Snapshot* const snapshot = snapshots_.Find(start.resume());
  if (!snapshot || snapshot->blocks.empty()) {
    return InvalidArgument(fmt::format("there is no snapshot {}", start.resume()));
  }
  if (snapshot->blocks.size() > start.kv_blocks()) {
    return InvalidArgument(
        fmt::format("kv_blocks is {}, snapshot {} has {}", start.kv_blocks(), start.resume(), snapshot->blocks.size()));
  }
  if (start.want_prompt_logprobs()) return InvalidArgument("it wants scores of a prompt that is not computed");
  const int counted = UsesCounts(start.sampling()) ? snapshot->length : 0;
  if (start.resumed_tokens_size() != counted) {
    return InvalidArgument(fmt::format("{} resumed_tokens, not {}", start.resumed_tokens_size(), counted));
  }
  return absl::OkStatus();
}

void SequenceTable::Resume(const SnapshotStore::Snapshot& snapshot, OwnedSequence* sequence) {
  blocks_.Share(snapshot.blocks);
  sequence->cache.blocks.insert(sequence->cache.blocks.begin(), snapshot.blocks.begin(), snapshot.blocks.end());
  states_->Restore(snapshot.conv_copy, snapshot.length, sequence->cache.conv_slot);
  sequence->length = snapshot.length;
  int position = 0;
  for (const TokenId token : sequence->start.resumed_tokens()) {
    if (!Planted(Bug::kForgetsResumedCounts)) sequence->counts.Add(token, sequence->InAnswer(position++));
  }
  sequence->start.clear_resumed_tokens();
}

void SequenceTable::Release(SequenceId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  Free(it->second);
  sequences_.erase(it);
}

void SequenceTable::Clear() {
  for (const auto& [id, sequence] : sequences_) Free(sequence);
  sequences_.clear();
  snapshots_.DropAllBut({});
}

void SequenceTable::Free(const OwnedSequence& sequence) {
  if (!Planted(Bug::kKeepsBlocksOfReleased)) blocks_.Release(sequence.cache.blocks);
  conv_slots_.Free(sequence.cache.conv_slot);
  for (const OwnedSequence::LastChunk& chunk : sequence.last_chunks) Forget(chunk);
}

int32_t SequenceTable::SaveColumns(const OwnedSequence& sequence, int position, int tokens) {
  if (position == 0 || tokens <= ShortRunTokens(*config_)) return -1;
  const int32_t copy = conv_copies_.Take();
  states_->Save(sequence.cache.conv_slot, position, copy);
  return copy;
}

void SequenceTable::Forget(const OwnedSequence::LastChunk& chunk) {
  if (chunk.conv_copy >= 0) conv_copies_.Free(chunk.conv_copy);
}

void SequenceTable::Note(const v1::SequenceChunk& chunk) {
  OwnedSequence& sequence = *Find(SequenceId(chunk.sequence()));
  std::deque<OwnedSequence::LastChunk>& last = sequence.last_chunks;
  while (!last.empty() && (!chunk.follows() || last.size() == OwnedSequence::kLastChunks)) {
    Forget(last.front());
    last.pop_front();
  }
  if (!last.empty() && last.back().conv_copy < 0) {
    // Together the two may overwrite what one leaves.
    const int position = last.back().position, tokens = sequence.length + chunk.tokens_size() - position;
    last.back().conv_copy = SaveColumns(sequence, position, tokens);
  }
  last.push_back({.position = sequence.length,
                  .counted = {},
                  .conv_copy = SaveColumns(sequence, sequence.length, chunk.tokens_size()),
                  .error = sequence.error});
}

void SequenceTable::Advance(const v1::SequenceChunk& chunk) {
  OwnedSequence& sequence = *Find(SequenceId(chunk.sequence()));
  const int sure = chunk.tokens_size() - static_cast<int>(chunk.drafts());
  for (int i = 0; i < sure; ++i) sequence.Append(chunk.tokens(i));
  sequence.next.reset();
  sequence.drawing = -1;
}

void SequenceTable::Withdraw(const v1::SequenceChunk& chunk) {
  OwnedSequence& sequence = *Find(SequenceId(chunk.sequence()));
  CHECK(!sequence.last_chunks.empty());
  const OwnedSequence::LastChunk last = std::move(sequence.last_chunks.back());
  sequence.last_chunks.pop_back();
  TakeBack(sequence, last);
  Forget(last);
}

std::vector<uint64_t> SequenceTable::Keep(const v1::Begin& begin) {
  absl::flat_hash_set<SequenceId> kept;
  std::vector<uint64_t> missing;
  for (const v1::SequenceKept& keep : begin.keep()) {
    const SequenceId id(keep.sequence());
    OwnedSequence* const sequence = Find(id);
    if (sequence && keep.length() <= static_cast<uint32_t>(sequence->length) &&
        RollBack(*sequence, static_cast<int>(keep.length()))) {
      kept.insert(id);
    } else {
      kept.erase(id);
      missing.push_back(keep.sequence());
    }
  }
  std::vector<SequenceId> forgotten;
  for (const auto& [id, sequence] : sequences_) {
    if (!kept.contains(id)) forgotten.push_back(id);
  }
  for (const SequenceId id : forgotten) {
    if (!Planted(Bug::kKeepsForgotten)) Release(id);
  }
  snapshots_.DropAllBut(begin.keep_snapshots());
  return missing;
}

bool SequenceTable::RollBack(OwnedSequence& sequence, int length) {
  std::deque<OwnedSequence::LastChunk> last = std::exchange(sequence.last_chunks, {});
  sequence.next.reset();
  sequence.drawing = -1;
  // The logits that score the next prompt token are gone.
  const bool scores = sequence.start.want_prompt_logprobs() && !sequence.InAnswer(length);
  if (sequence.length > length && scores && !Planted(Bug::kKeepsScoresOfVoidChunk)) return false;
  int reached = sequence.length;
  for (size_t i = last.size(); i > 0 && last[i - 1].position >= length; --i) {
    if (Planted(Bug::kForgetsCountsOfTheFirst) && i < last.size()) last[i - 1].counted.clear();
    TakeBack(sequence, last[i - 1]);
    reached = last[i - 1].position;
  }
  for (const OwnedSequence::LastChunk& chunk : last) Forget(chunk);
  return reached == length;
}

// Also a chunk that did not get so far as to be appended.
void SequenceTable::TakeBack(OwnedSequence& sequence, const OwnedSequence::LastChunk& chunk) {
  if (!Planted(Bug::kForgetsCountRollback)) {
    int position = chunk.position;
    for (const TokenId token : chunk.counted) {
      sequence.counts.Remove(token, sequence.InAnswer(position++));
      if (Planted(Bug::kForgetsDraftRollback)) break;
    }
  }
  if (chunk.conv_copy >= 0 && !Planted(Bug::kForgetsConvRollback))
    states_->Restore(chunk.conv_copy, chunk.position, sequence.cache.conv_slot);
  if (!Planted(Bug::kForgetsLengthRollback)) sequence.length = chunk.position;
  sequence.error = chunk.error;
}

OwnedSequence* SequenceTable::Find(SequenceId id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : &it->second;
}

}  // namespace braid
