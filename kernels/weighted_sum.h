#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// y[t] = sum over k ascending of weights[t, k] * rows[row_of[t, k]], each product and each sum rounded.
struct WeightedSum {
  int T = 0, D = 0, K = 0;
  const float* rows = nullptr;      // (R, D)
  const int32_t* row_of = nullptr;  // (T, K), each in [0, R)
  const float* weights = nullptr;   // (T, K)
  float* y = nullptr;               // (T, D)
};
absl::Status Check(const WeightedSum& op);
void Run(const WeightedSum& op, ThreadPool& pool);

}  // namespace braid
