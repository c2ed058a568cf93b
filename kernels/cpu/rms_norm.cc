#include "kernels/rms_norm.h"

#include "kernels/cpu/level.h"

namespace braid {

void Run(const RmsNorm& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T, 8, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) level.norm_row(op, t);
  });
}

}  // namespace braid
