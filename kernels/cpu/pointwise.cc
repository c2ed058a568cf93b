#include "kernels/pointwise.h"

#include <algorithm>

#include "kernels/exp.h"

namespace braid {
namespace {

// Runs body(begin, end) over [0, n) in pieces: n may exceed what ParallelFor counts.
template <typename Body>
void ForPieces(int64_t n, int64_t piece, ThreadPool& pool, const Body& body) {
  pool.ParallelFor(static_cast<int>((n + piece - 1) / piece), 1,
                   [&](int begin, int end) { body(begin * piece, std::min(n, end * piece)); });
}

}  // namespace

void Run(const SwiGlu& op, ThreadPool& pool) {
  ForPieces(op.n, 2048, pool, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) op.y[i] = op.gate[i] / (1.0f + Exp(-op.gate[i])) * op.up[i];
  });
}

}  // namespace braid
