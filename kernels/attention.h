#pragma once

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// Where a sequence's keys and values lie and which row is its what: `blocks` are indices into the arena.
struct KvRow {
  const int32_t* blocks = nullptr;  // block i holds positions [i * block_tokens, (i + 1) * block_tokens)
  int position = 0;
};

// One layer of a KV arena.
struct KvArena {
  float* keys = nullptr;  // of block 0: (block_tokens, kv_dim)
  float* values = nullptr;
  int64_t block_stride = 0;  // floats from a block to the next
  int block_tokens = 0;      // at most kBlockTokensMax
  int kv_dim = 0;

  static constexpr int kBlockTokensMax = 64;
  float* key(const KvRow& row, int position) const { return keys + Offset(row, position); }
  float* value(const KvRow& row, int position) const { return values + Offset(row, position); }
  int64_t Offset(const KvRow& row, int position) const {
    return row.blocks[position / block_tokens] * block_stride + int64_t{position % block_tokens} * kv_dim;
  }
};

// Stores row t's key and value at its position.
struct KvStore {
  int T = 0;
  const float* k = nullptr;  // (T, kv_dim)
  const float* v = nullptr;
  const KvRow* rows = nullptr;  // (T)
  KvArena arena;
};
absl::Status Check(const KvStore& op);
void Run(const KvStore& op, ThreadPool& pool);

// Causal attention of row t over the positions [0, rows[t].position], which are all in the arena. Query head h uses key
// head h / (heads / kv_heads). The softmax is streamed over the blocks in ascending order, each a fixed piece of the
// context: prefill, decode and any mix of both give a row the same bits.
struct Attention {
  int T = 0, heads = 0, kv_heads = 0, head_dim = 0;  // head_dim a multiple of 8, heads / kv_heads at most kGroupMax
  const float* q = nullptr;                          // (T, heads, head_dim)
  const KvRow* rows = nullptr;                       // (T)
  KvArena arena;
  float* y = nullptr;  // (T, heads, head_dim); must not overlap q

  static constexpr int kGroupMax = 64;
};
absl::Status Check(const Attention& op);
void Run(const Attention& op, ThreadPool& pool);

namespace ref {
void Run(const Attention& op);
}

}  // namespace braid
