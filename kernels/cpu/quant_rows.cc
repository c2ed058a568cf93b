#include "kernels/quant_rows.h"

#include "kernels/cpu/level.h"

namespace braid {

void Run(const QuantizeRows& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  const int64_t blocks = op.K / 32;
  pool.ParallelFor(op.T, 8, [&](int begin, int end) {
    level.quantize(op.x + int64_t{begin} * op.K, (end - begin) * blocks, op.q + begin * blocks);
  });
}

void QuantizeRow(const float* x, int K, QuantBlock* q) { ActiveCpuLevel().quantize(x, K / 32, q); }

}  // namespace braid
