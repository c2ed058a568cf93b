#include "kernels/weighted_sum.h"

#include "kernels/cpu/level.h"

namespace braid {

void Run(const WeightedSum& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T, 4, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) level.weighted_sum_row(op, t);
  });
}

}  // namespace braid
