#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace braid::gpu {

// One layer of a KV arena in device memory, in bfloat16:
//
//   block:  per key head, one behind the other
//     keys    (kBlockTokens, head_dim)
//     values  (kBlockTokens, head_dim)
//
// A position's key is one run of memory, so eight lanes read four positions of 64 numbers in a line each, and keys as
// well as values are tensor-core operands as they lie (ldmatrix, for values transposed). Not the CPU's layout: the two
// never exchange KV.
struct KvArena {
  __nv_bfloat16* blocks = nullptr;  // block 0, at a multiple of 16 bytes
  int64_t block_stride = 0;         // numbers from a block to the next, a multiple of 8
  int kv_heads = 0, head_dim = 0;

  static constexpr int kBlockTokens = 32;

  static constexpr int64_t BlockNumbers(int kv_heads, int head_dim) {
    return int64_t{2} * kBlockTokens * kv_heads * head_dim;
  }
};

// Where the rows of a step are in their sequences. A row with a position below 0 pads the step to a size that a graph
// was captured for: nothing is stored for it.
struct KvRows {
  const int32_t* positions = nullptr;  // (T)
  const int32_t* sequences = nullptr;  // (T), the row of `blocks` that is the sequence's
  const int32_t* blocks = nullptr;     // (sequences, block_table_stride): block i holds positions [32 i, 32 i + 32)
  int block_table_stride = 0;
};

}  // namespace braid::gpu
