#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"

namespace braid {

// y = x W^T in float32, the weights widened to float32 on the way.
//
// The order of the additions is part of the contract: eight lanes, lane l adding up the products of the columns
// k = l (mod 8) by fused multiply-adds in ascending k, then ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)). Every
// CPU level, row count and tile keeps it, so the bits of a row depend on that row and W alone.
struct Linear {
  int T = 0;
  Matrix w;                  // (N, K)
  const float* x = nullptr;  // (T, K)
  float* y = nullptr;        // (T, N); must not overlap x
};
absl::Status Check(const Linear& op);
// REQUIRES, here and for every op: Check(op).ok().
void Run(const Linear& op, ThreadPool& pool);
// The same for several at once, which keeps all threads busy when each is small. None may read what another writes.
void RunAll(std::span<const Linear> ops, ThreadPool& pool);

namespace ref {
void Run(const Linear& op);
}

}  // namespace braid
