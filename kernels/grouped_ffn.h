#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/linear.h"
#include "kernels/matrix.h"
#include "kernels/quant_rows.h"
#include "kernels/thread_pool.h"

namespace braid {

// Rows [begin, end) go through these weights.
struct FfnGroup {
  int begin = 0, end = 0;
  Matrix gate, up;  // (F, D)
  Matrix down;      // (D, F)
};

// y[r] = down(silu(gate x[source[r]]) * (up x[source[r]])) with the weights of the group r is in. Products as in
// linear.h; what goes into a `down` in panels is quantised as QuantizeRows does.
struct GroupedFfn {
  int R = 0, D = 0, F = 0;
  std::span<const FfnGroup> groups;  // cover rows [0, R) in order
  const int32_t* source = nullptr;   // (R), the row of x and q that each row reads; nullptr: row r reads row r
  const float* x = nullptr;          // (M, D), read by gate and up in rows
  const QuantBlock* q = nullptr;     // (M, D / 32), the quantised x, read by gate and up in panels
  float* y = nullptr;                // (R, D)
};
// Grows to what the largest op needs, at most some 64 MB, or one row.
struct GroupedFfnScratch {
  std::vector<float> x, gate, up;
  std::vector<QuantBlock> q, hidden;
  std::vector<const FfnGroup*> order;
  std::vector<Linear> in, out;
};
absl::Status Check(const GroupedFfn& op);
void Run(const GroupedFfn& op, GroupedFfnScratch& scratch, ThreadPool& pool);

}  // namespace braid
