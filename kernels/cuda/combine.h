#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "base/dtype.h"

namespace braid::gpu {

// y[t] = sum over k ascending, that is in routing order, of weights[t, k] * rows[row_of[t, k]], each product and each
// sum rounded: the same bits wherever the rows were computed. Pairs with a row below 0 add nothing.
struct Combine {
  int T = 0, D = 0, K = 0;          // D a multiple of 8
  DType type = DType::kBF16;        // of rows: kF32 or kBF16
  const void* rows = nullptr;       // (R, D)
  const int32_t* row_of = nullptr;  // (T, K), each below R
  const float* weights = nullptr;   // (T, K)
  float* y = nullptr;               // (T, D)
};
absl::Status Check(const Combine& op);
cudaError_t Run(const Combine& op, cudaStream_t stream);

}  // namespace braid::gpu
