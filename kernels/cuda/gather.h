#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/cuda/matrix.h"

namespace braid::gpu {

// y[t] = table[ids[t]]: embeddings, or the rows of an activation that somebody asked for. Exact: a value is widened, or
// the product of a quant and its scale, which float32 holds; bfloat16 output rounds that once.
struct Gather {
  int T = 0;
  Matrix table;                  // (V, D), D a multiple of 8
  const int32_t* ids = nullptr;  // (T), each in [0, V)
  DType type = DType::kF32;      // of y: kF32 or kBF16
  void* y = nullptr;             // (T, D)
};
absl::Status Check(const Gather& op);
// Here and for every op: enqueues and returns; pointers are to device memory. REQUIRES: Check(op).ok().
cudaError_t Run(const Gather& op, cudaStream_t stream);

}  // namespace braid::gpu
