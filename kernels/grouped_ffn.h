#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"

namespace braid {

// Rows [begin, end) go through these weights.
struct FfnGroup {
  int begin = 0, end = 0;
  Matrix gate, up;  // (F, D)
  Matrix down;      // (D, F)
};

// y[r] = down(silu(gate x[r]) * (up x[r])) with the weights of the group r is in.
struct GroupedFfn {
  int R = 0, D = 0, F = 0;
  std::span<const FfnGroup> groups;  // cover rows [0, R) in order
  const float* x = nullptr;          // (R, D)
  float* y = nullptr;                // (R, D)
};
// Grows to what the largest op needs, at most some 32 MB, or one row.
struct GroupedFfnScratch {
  std::vector<float> gate, up;
};
absl::Status Check(const GroupedFfn& op);
void Run(const GroupedFfn& op, GroupedFfnScratch& scratch, ThreadPool& pool);

}  // namespace braid
