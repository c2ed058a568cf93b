#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "model/config.h"

namespace braid {

// Positions per KV block. Attention walks the context in pieces of this many, combined in a fixed order, so it is part
// of what makes answers reproducible: not a tuning knob.
inline constexpr int kKvBlockTokens = KvArena::kBlockTokens;
// Columns kept per conv layer and sequence, addressed by position modulo this. More than C - 1, so that a run of up to
// kConvColumns - (C - 1) tokens is taken back by simply going on from where it began; for longer ones see
// SaveConvColumns.
inline constexpr int kConvColumns = 16;

// What a sequence has behind it: which KV blocks are its own and its conv columns. The worker owns it and decides which
// blocks; the forward pass reads and writes through it.
struct SequenceCache {
  std::vector<int32_t> blocks;  // block i holds positions [i * kKvBlockTokens, (i + 1) * kKvBlockTokens)
  std::vector<float> conv;      // (conv layers, kConvColumns, D)
};

// Rolling back a run of `tokens` tokens from `position`, whether it was completed, failed in any layer, or never began:
// keys and values are addressed by position, so they are overwritten. The C - 1 conv columns before `position` must be
// what they were: a run that is longer than the ring allows overwrites them, so they are saved before it and put back
// to take it back. Saves nothing (an empty vector) if they survive.
std::vector<float> SaveConvColumns(const ModelConfig& config, const SequenceCache& cache, int position, int tokens);
// REQUIRES: `saved` is what SaveConvColumns gave for this position, or a ConvSnapshot of it.
void RestoreConvColumns(const ModelConfig& config, std::span<const float> saved, int position, SequenceCache* cache);

// Room for the conv state at one position: (conv layers, C - 1, D), the columns before it. The forward pass fills it in
// on its way, see Chunk::saves. Together with the KV blocks of what is before that position it is all that another
// sequence with the same beginning needs to go on from there.
size_t ConvSnapshotFloats(const ModelConfig& config);

// The memory of the KV blocks of one worker, allocated once (untouched pages cost nothing). Not thread-safe; different
// blocks may be used from different threads.
class KvPool {
 public:
  KvPool(const ModelConfig& config, int blocks, KvType type = KvType::kBFloat16);
  int blocks() const { return blocks_; }
  KvType type() const { return type_; }
  // What one attention layer, counted among attention layers only, keeps in a block, laid out as its engine likes;
  // block b + 1 lies layer_bytes() behind block b. At a multiple of 64 bytes.
  std::byte* at(int attention_layer, int block);
  size_t layer_bytes() const { return layer_bytes_; }
  // Of all layers. What a checksum model keeps is float32, whatever the type.
  static uint64_t BlockBytes(const ModelConfig& config, KvType type = KvType::kBFloat16);

  SequenceCache NewSequence() const;  // no blocks, conv columns zero

 private:
  struct Unmapper {
    size_t bytes = 0;
    void operator()(std::byte* memory) const;
  };
  int blocks_;
  KvType type_;
  size_t layer_bytes_;
  size_t conv_floats_;
  std::unique_ptr<std::byte[], Unmapper> memory_;
};

}  // namespace braid
