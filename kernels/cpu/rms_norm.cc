#include "kernels/rms_norm.h"

#include "kernels/cpu/level.h"
#include "kernels/cpu/row_norm.h"

namespace braid {

void Run(const RmsNorm& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T, 8, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const float* x = op.x + int64_t{t} * op.D;
      float* y = op.y + int64_t{t} * op.D;
      if (op.add != nullptr) {
        const float* add = op.add + int64_t{t} * op.D;
        float* sum = op.sum + int64_t{t} * op.D;
        for (int d = 0; d < op.D; ++d) sum[d] = x[d] + add[d];
        x = sum;
      }
      const float scale = InverseRms(x, op.D, op.eps);
      for (int d = 0; d < op.D; ++d) y[d] = x[d] * scale * op.weight[d];
      if (op.q != nullptr) level.quantize(y, op.D / 32, op.q + int64_t{t} * (op.D / 32));
    }
  });
}

}  // namespace braid
