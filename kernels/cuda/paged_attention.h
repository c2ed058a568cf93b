#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "kernels/cuda/kv.h"

namespace braid::gpu {

// Neighbouring rows of one sequence that walk the context together.
struct AttentionTile {
  int32_t first_row = 0, rows = 0;
};

// Causal attention of row t over the positions [0, positions[t]], which are all in the arena. Query head h uses key
// head h / (heads / kv_heads). A padding row's y is left alone.
//
// The rule of kernels/attention.h: the context is walked in pieces of kPieceTokens, each span of kSpanTokens is reduced
// on its own over its pieces in ascending order, and the spans are merged in ascending order. Tiles, the split over
// spans and the rows beside it leave a row's bits as they are.
//
// In float32, plain arithmetic: a dot product adds up the even and the odd dimensions, each in ascending order, and
// then both; a weighted sum goes by ascending position. In bfloat16, tensor cores: weights are rounded to bfloat16, and
// a NaN or infinity among a tile's values reaches all of its rows, also those before it.
struct PagedAttention {
  int T = 0, heads = 0, kv_heads = 0, head_dim = 0;  // head_dim 32, 64 or 128
  DType type = DType::kBF16;                         // of q and y: kF32 or kBF16
  const void* q = nullptr;                           // (T, heads, head_dim)
  KvRows rows;
  KvArena arena;
  // The rows in tiles whose contexts end near each other, as those of a prefill do; nullptr: each row is a tile. A row
  // in none has no result, and its y is left alone.
  const AttentionTile* tiles = nullptr;
  int tile_count = 0;
  int tile_rows = 0;  // the most rows of any tile, at most RowsMax: fewer take a smaller block
  // Where the results of spans go, if a tile's spans are to be worked on at once; nullptr if a block is to walk all of
  // them. PartialNumbers of them, for tile_count * tile_rows rows, or T without tiles.
  float* partials = nullptr;
  int spans = 0;      // with `partials`: at least SpansOf(the highest position)
  void* y = nullptr;  // (T, heads, head_dim); must not overlap q

  static constexpr int kPieceTokens = 64;
  static constexpr int kSpanTokens = 512;
  static constexpr int kGroupMax = 16;

  // `group` is heads / kv_heads. A tile of a few rows, as a decode has them, is the work of one warp in bfloat16, and
  // of one row for each warp in float32.
  static constexpr int RowsMax(DType type, int group) { return (type == DType::kBF16 ? 64 : 16) / group; }
  static constexpr int FewRows(DType type, int group) { return std::max(1, (type == DType::kBF16 ? 16 : 4) / group); }
  static constexpr int SpansOf(int position) { return position / kSpanTokens + 1; }
  static constexpr int64_t PartialNumbers(int64_t rows, int heads, int head_dim, int spans) {
    return rows * heads * spans * (head_dim + 2);
  }
};
absl::Status Check(const PagedAttention& op);
cudaError_t Run(const PagedAttention& op, cudaStream_t stream);

// Its part for kBF16, up to the merge of spans. REQUIRES: tile_count and tile_rows are set, also without tiles.
cudaError_t RunSpansMma(const PagedAttention& op, cudaStream_t stream);

}  // namespace braid::gpu
