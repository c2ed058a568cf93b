#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "kernels/cuda/kv.h"

namespace braid::gpu {

// What lies between the projections and attention, in one pass: RMSNorm of each query and key head, the rotation of the
// pairs (i, i + head_dim / 2), and the store of keys and values, rounded to bfloat16, at their positions.
//
// The angles of all positions are made once, by the CPU's RopeTable: a cosine of a large angle takes a GPU dozens of
// instructions and local memory, and the same table means the same angles on every device.
struct QkvHeads {
  int T = 0, heads = 0, kv_heads = 0, head_dim = 0;  // head_dim 32, 64 or 128
  DType type = DType::kBF16;                         // of qkv and q: kF32 or kBF16
  const void* qkv = nullptr;                         // (T, heads + 2 kv_heads, head_dim): queries, keys, values
  const float* q_weight = nullptr;                   // (head_dim)
  const float* k_weight = nullptr;
  float eps = 0;
  const float* cos = nullptr;  // (positions, head_dim / 2)
  const float* sin = nullptr;
  KvRows rows;
  KvArena arena;
  void* q = nullptr;  // (T, heads, head_dim); may not overlap qkv
};
absl::Status Check(const QkvHeads& op);
cudaError_t Run(const QkvHeads& op, cudaStream_t stream);

}  // namespace braid::gpu
