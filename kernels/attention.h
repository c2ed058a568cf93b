#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// Where a sequence's keys and values lie and which row is its what: `blocks` are indices into the arena.
struct KvRow {
  const int32_t* blocks = nullptr;  // block i holds positions [i * kBlockTokens, (i + 1) * kBlockTokens)
  int position = 0;
};

// One layer of a KV arena: keys and values in bfloat16, paired as attention reads them, 64 bytes at a time:
//
//   block:  per key head, one behind the other
//     keys    (row_dim / 2, kBlockTokens, 2)   two dimensions of one position are a pair
//     values  (kBlockTokens / 2, row_dim, 2)   one dimension of two positions is a pair
//
// What is stored for a position depends on its key and value alone.
struct KvArena {
  uint16_t* blocks = nullptr;  // block 0
  int64_t block_stride = 0;    // numbers from a block to the next
  int kv_heads = 0, head_dim = 0;

  // Also the least piece of context that attention looks at.
  static constexpr int kBlockTokens = 32;

  // head_dim, rounded up to what is read at once. The rest is never written and its results are never used.
  static constexpr int RowDim(int head_dim) { return (head_dim + 15) / 16 * 16; }
  static constexpr int64_t BlockNumbers(int kv_heads, int head_dim) {
    return int64_t{2} * kBlockTokens * kv_heads * RowDim(head_dim);
  }
  uint16_t* keys(int32_t block, int kv_head) const {
    return blocks + block * block_stride + BlockNumbers(kv_head, head_dim);
  }
  uint16_t* values(int32_t block, int kv_head) const { return keys(block, kv_head) + kBlockTokens * RowDim(head_dim); }
  // One number of a position.
  uint16_t* key(const KvRow& row, int position, int kv_head, int d) const {
    return keys(row.blocks[position / kBlockTokens], kv_head) + (d / 2 * kBlockTokens + position % kBlockTokens) * 2 +
           d % 2;
  }
  uint16_t* value(const KvRow& row, int position, int kv_head, int d) const {
    return values(row.blocks[position / kBlockTokens], kv_head) +
           (position % kBlockTokens / 2 * RowDim(head_dim) + d) * 2 + position % 2;
  }
};

// Stores row t's key and value at its position, rounded to the nearest bfloat16.
struct KvStore {
  int T = 0;
  const float* k = nullptr;  // (T, kv_heads, head_dim)
  const float* v = nullptr;
  const KvRow* rows = nullptr;  // (T)
  KvArena arena;
};
absl::Status Check(const KvStore& op);
void Run(const KvStore& op, ThreadPool& pool);

// Causal attention of row t over the positions [0, rows[t].position], which are all in the arena. Query head h uses key
// head h / (heads / kv_heads).
//
// The context is walked in pieces of kPieceTokens. Each span of kSpanTokens is reduced on its own, a softmax streamed
// over its pieces in ascending order, and the spans are merged in ascending order: prefill, decode and any mix of both,
// on any number of threads, give a row the same bits. All arithmetic is float32.
struct Attention {
  int T = 0, heads = 0, kv_heads = 0, head_dim = 0;  // head_dim a multiple of 8, at most kHeadDimMax
  const float* q = nullptr;                          // (T, heads, head_dim)
  const KvRow* rows = nullptr;                       // (T); rows of one sequence are neighbours
  KvArena arena;
  float* y = nullptr;  // (T, heads, head_dim); must not overlap q

  static constexpr int kHeadDimMax = 1024;
  static constexpr int kPieceTokens = 64;
  static constexpr int kSpanTokens = 512;
};

// Query rows of one sequence that walk the context together. A row is a token and one of the query heads of the key
// head, and is counted as token * (heads / kv_heads) + head.
struct AttentionTile {
  int begin = 0, end = 0;
  int position = 0;  // the last that one of them sees
};
// One thread's work: a tile and key heads [head_begin, head_end), over all of the context or (with `partial`, where its
// result goes) over one span of it. The heads of a block lie behind each other: few rows, who wait for memory, read it
// in long stretches.
struct AttentionItem {
  AttentionTile tile;
  int head_begin = 0, head_end = 0;
  int span = 0;
  float* partial = nullptr;
};
// Grows to what the largest op needs; reused from op to op.
struct AttentionScratch {
  std::vector<AttentionTile> tiles;
  std::vector<AttentionItem> items, merges;
  std::vector<float> partials;
};
absl::Status Check(const Attention& op);
void Run(const Attention& op, AttentionScratch& scratch, ThreadPool& pool);

namespace ref {
void Run(const Attention& op);
}

}  // namespace braid
