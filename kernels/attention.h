#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/kv_arena.h"
#include "kernels/thread_pool.h"

namespace braid {

// Stores row t's key and value at its position, rounded to the nearest number of the arena's type.
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
