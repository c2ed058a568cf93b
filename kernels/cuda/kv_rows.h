#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/kv.h"

namespace braid::gpu {

// Kernels' view of kv.h: the key of a position; its value is kBlockTokens * head_dim numbers further.
__device__ inline __nv_bfloat16* KeyAt(const KvArena& arena, const int32_t* blocks, int position, int kv_head) {
  constexpr int kTokens = KvArena::kBlockTokens;
  const int64_t row = int64_t{2} * kv_head * kTokens + position % kTokens;
  return arena.blocks + blocks[position / kTokens] * arena.block_stride + row * arena.head_dim;
}
__device__ inline const int32_t* BlocksOf(const KvRows& rows, int64_t t) {
  return rows.blocks + static_cast<int64_t>(rows.sequences[t]) * rows.block_table_stride;
}

}  // namespace braid::gpu
