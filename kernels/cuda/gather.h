#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/cuda/matrix.h"

namespace braid::gpu {

// y[t] = table[ids[t]]: embeddings, or the rows of an activation that somebody asked for. Exact: a value is widened, or
// the product of a quant and its scale, which float32 holds; bfloat16 output rounds that once.
//
// An id below 0 stands for drawn[~id], a token that the step before has chosen and the host may not know; if that is
// below 0 as well, nothing could be chosen, and row 0 is as good as any.
struct Gather {
  int T = 0;
  Matrix table;                    // (V, D), D a multiple of 8
  const int32_t* ids = nullptr;    // (T), each below V
  DType type = DType::kF32;        // of y: kF32 or kBF16
  void* y = nullptr;               // (T, D)
  const int32_t* drawn = nullptr;  // each below V; may be null if no id is below 0
};
absl::Status Check(const Gather& op);
// Here and for every op: enqueues and returns; pointers are to device memory. REQUIRES: Check(op).ok().
cudaError_t Run(const Gather& op, cudaStream_t stream);

}  // namespace braid::gpu
