#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/quant_rows.h"
#include "kernels/thread_pool.h"

namespace braid {

// y = x W^T. The bits of an output depend on its row and W alone: every CPU level, row count and tile keeps this order.
//
// W in rows: in float32, the weights widened on the way. Eight lanes, lane l adding up the products of the columns
// k = l (mod 8) by fused multiply-adds in ascending k, then ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)).
//
// W in panels: the dot of a block of 32 columns (Q6_K: 16) is an exact integer i; y = fma(i, w_scale * x_scale, y)
// block by block in ascending k. Q4_K and Q5_K add a second fma per block, of the sum of its quants and the minimum.
// w_scale is the exact product of the scales that the file has for the block.
struct Linear {
  int T = 0;
  Matrix w;                       // (N, K)
  const float* x = nullptr;       // (T, K), read if w is in rows
  float* y = nullptr;             // (T, N); must not overlap x
  const QuantBlock* q = nullptr;  // (T, K / 32), the quantised x, read if w is in panels
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
