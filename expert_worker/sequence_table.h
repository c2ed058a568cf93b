#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/block_allocator.h"
#include "expert_worker/free_slots.h"
#include "expert_worker/sampler.h"
#include "expert_worker/snapshot_store.h"
#include "model/config.h"
#include "model/sequence_states.h"

namespace braid {

// What this worker knows of a sequence that it owns.
struct OwnedSequence {
  v1::SequenceStart start;
  SequenceCache cache;  // with all blocks it will ever need; the first ones may be shared
  int length = 0;       // positions [0, length) are in the cache
  bool InAnswer(int position) const { return position >= static_cast<int>(start.prompt_tokens()); }
  // Position `length` is in the cache as well: it holds `token`.
  void Append(TokenId token);
  TokenCounts counts;  // kept only if its sampling has penalties
  // Logits behind the last prompt token so far, kept while prompt scores are wanted: they score the first token of the
  // next chunk. Empty otherwise.
  std::vector<float> score_next;
  std::string error;  // not empty: its logits were not finite
  // What was sampled at the end of its last chunk, to stand at `length`; -1: nothing could be. nullopt: nothing was to,
  // or it is not known yet.
  std::optional<TokenId> next;
  // Not -1: `next` is still being drawn, at this index of the last step's Draw.
  int drawing = -1;
  // Whether a chunk that follows has a row, if this is `next`: it is a token, and none behind which nothing follows.
  bool MayFollow(TokenId token) const;

  // What a chunk changes, noted before it is run.
  struct LastChunk {
    int position = 0;
    std::vector<TokenId> counted;  // its tokens that were appended, if they are counted
    int32_t conv_copy = -1;        // of the columns before it; -1: none is needed
    std::string error;             // what it was
  };
  // Those that may be void, the older one first: a chunk that follows is run when the one before it may not be
  // committed.
  static constexpr size_t kLastChunks = StateSizes::kRunsTakenBack;
  std::deque<LastChunk> last_chunks;
};

// The sequences of one worker, the snapshots that they begin with, and which parts of the worker's state both hold. The
// router decides; this refuses what contradicts itself. Thread-compatible.
class SequenceTable {
 public:
  // Both must outlive *this; the states are this table's alone. Holds as many sequences and snapshots as they have room
  // for.
  SequenceTable(const ModelConfig* config, SequenceStates* states);

  // kInvalidArgument naming the field; kResourceExhausted if there are not as many blocks or places free, so that the
  // router's accounting and ours differ.
  absl::Status Start(const v1::SequenceStart& start);
  // Forgets it and frees its blocks; nothing happens if it is unknown.
  void Release(SequenceId id);
  // Forgets all sequences and snapshots.
  void Clear();

  // A chunk is about to be run: from here on it can be taken back; the one before it cannot any more, unless this one
  // follows. REQUIRES: CheckChunks, as for Advance.
  void Note(const v1::SequenceChunk& chunk);
  // The chunk that was noted is in the cache. Its drafts are not appended: who finds one right does that.
  void Advance(const v1::SequenceChunk& chunk);
  // The last chunk was run for nothing, as it turns out: it never was. REQUIRES: Note and Advance.
  void Withdraw(const v1::SequenceChunk& chunk);
  // A new epoch begins: takes the last chunk of each sequence back, or the last two, if they were run in part or are
  // not committed, and forgets all other sequences; so it does with snapshots. Returns those that are not here or
  // cannot be brought to that length; they are forgotten as well. What is kept is bit for bit as if the chunks had
  // never been.
  std::vector<uint64_t> Keep(const v1::Begin& begin);

  // Null if unknown. Valid until it is released.
  OwnedSequence* Find(SequenceId id);
  int size() const { return static_cast<int>(sequences_.size()); }
  const BlockAllocator& blocks() const { return blocks_; }
  // Copies of conv columns in use, those of snapshots among them.
  int conv_copies_used() const { return states_->sizes().copies() - conv_copies_.count(); }
  SnapshotStore& snapshots() { return snapshots_; }
  const SnapshotStore& snapshots() const { return snapshots_; }

 private:
  absl::Status CheckResume(const v1::SequenceStart& start) const;
  void Resume(const SnapshotStore::Snapshot& snapshot, OwnedSequence* sequence);
  bool RollBack(OwnedSequence& sequence, int length);
  void TakeBack(OwnedSequence& sequence, const OwnedSequence::LastChunk& chunk);
  // Of the columns before `position`, if a run of `tokens` from there overwrites any, else -1.
  int32_t SaveColumns(const OwnedSequence& sequence, int position, int tokens);
  void Forget(const OwnedSequence::LastChunk& chunk);
  void Free(const OwnedSequence& sequence);

  const ModelConfig* config_;
  SequenceStates* states_;
  BlockAllocator blocks_;
  FreeSlots conv_slots_, conv_copies_;
  SnapshotStore snapshots_;
  absl::node_hash_map<SequenceId, OwnedSequence> sequences_;
};

}  // namespace braid
