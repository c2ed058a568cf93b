#include "kernels/rms_norm.h"

#include "kernels/cpu/row_norm.h"

namespace braid {

void Run(const RmsNorm& op, ThreadPool& pool) {
  pool.ParallelFor(op.T, 8, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const float* x = op.x + int64_t{t} * op.D;
      float* y = op.y + int64_t{t} * op.D;
      const float scale = InverseRms(x, op.D, op.eps);
      for (int d = 0; d < op.D; ++d) y[d] = x[d] * scale * op.weight[d];
    }
  });
}

}  // namespace braid
