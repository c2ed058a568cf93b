#include "kernels/rope.h"

#include <cmath>

#include "absl/container/inlined_vector.h"
#include "kernels/cpu/level.h"

namespace braid {

void Run(const RopeTable& op, ThreadPool& pool) {
  const int half = op.head_dim / 2;
  absl::InlinedVector<float, 128> frequencies(static_cast<size_t>(half));
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(op.head_dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(static_cast<double>(op.theta), static_cast<double>(exponent)));
  }
  pool.ParallelFor(op.T, 16, [&](int begin, int end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int i = 0; i < half; ++i) {
        const float angle = static_cast<float>(op.positions[t]) * frequencies[i];
        op.cos[t * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        op.sin[t * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  });
}

void Run(const HeadNormRope& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T, 4, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) level.head_norm_rope_row(op, t);
  });
}

}  // namespace braid
