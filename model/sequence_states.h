#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kv_arena.h"
#include "model/config.h"

namespace braid {

// Positions per KV block. Attention walks the context in pieces of this many, combined in a fixed order, so it is part
// of what makes answers reproducible: not a tuning knob.
inline constexpr int kKvBlockTokens = KvArena::kBlockTokens;
// Columns kept per conv layer and sequence, addressed by position modulo this. More than C - 1: see ShortRunTokens.
inline constexpr int kConvColumns = 16;

// What a sequence has behind it, as numbers into a SequenceStates. The worker decides which; the forward pass reads and
// writes what lies there.
struct SequenceCache {
  std::vector<int32_t> blocks;  // block i holds positions [i * kKvBlockTokens, (i + 1) * kKvBlockTokens)
  int32_t conv_slot = -1;       // holds its conv columns
};

// How much state there is room for, planned once.
//
// On the host, what is never touched costs nothing. On a device all of it is taken at start: for LFM2-8B-A1B 2.4 MB of
// conv columns and two copies of 0.3 MB per sequence, so 3 GB for 1,024 sequences, whose keys and values take 19 GB at
// 1,500 tokens each.
struct StateSizes {
  int blocks = 1;     // of keys and values
  int sequences = 1;  // at once; each has a slot of conv columns
  int snapshots = 0;  // copies of conv columns for the prefix cache
  // Runs of a sequence, the last ones, that may have to be taken back: a copy of conv columns each, see ShortRunTokens.
  static constexpr int kRunsTakenBack = 2;
  int copies() const { return snapshots + kRunsTakenBack * sequences; }
};

// Rolling back a run of tokens, whether it was completed, failed in any layer, or never began: keys and values are
// addressed by position, so they are overwritten. The C - 1 conv columns before the run must be what they were. A run
// of at most so many tokens leaves them alone and is taken back by simply going on from where it began; before a longer
// one they are saved, and restored to take it back.
inline int ShortRunTokens(const ModelConfig& config) { return kConvColumns - (config.conv_taps - 1); }

// Bytes of a KV block of all layers. What a checksum model keeps is float32, whatever the type.
uint64_t KvBlockBytes(const ModelConfig& config, KvType type = KvType::kBFloat16);
// Of a sequence's conv columns: (conv layers, kConvColumns, D) float32.
uint64_t ConvColumnsBytes(const ModelConfig& config);
// Of a copy of those before one position: (conv layers, C - 1, D) float32. Together with the KV blocks of what is
// before that position it is all that another sequence with the same beginning needs to go on from there.
uint64_t ConvCopyBytes(const ModelConfig& config);

// The state of a worker's sequences, in the memory that its engine computes in: KV blocks, slots of conv columns, and
// copies of conv columns, each numbered from 0. Who has which number is not known here (SequenceTable), nor need
// anything be cleared for its next owner: engines read nothing of a position that the sequence has not had.
class SequenceStates {
 public:
  explicit SequenceStates(const StateSizes& sizes) : sizes_(sizes) {}
  virtual ~SequenceStates() = default;
  const StateSizes& sizes() const { return sizes_; }

  // These take their place among the engine's steps: behind those begun before, ahead of those begun after. They need
  // not wait, and an error of a device shows in the step behind.
  //
  // Copies the conv columns of the C - 1 positions before `position`, as far as there are any. What a step saves on its
  // way (Chunk::saves) is the same.
  virtual void Save(int32_t conv_slot, int position, int32_t copy) = 0;
  // REQUIRES: `copy` was saved at this position, of any slot.
  virtual void Restore(int32_t copy, int position, int32_t conv_slot) = 0;
  // Sets all bytes of keys and values, and of columns where these are not zeros at first: a context to measure with.
  // What was never written may be no numbers, and then all rows go to the same experts.
  virtual void Fill(uint8_t byte) {}

 private:
  const StateSizes sizes_;
};

}  // namespace braid
