// The oracles of the ops that work on one row or one value at a time.

#include <cmath>

#include "kernels/pointwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace braid::ref {
namespace {

double InverseRms(const float* x, int n, float eps) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += double{x[i]} * double{x[i]};
  return 1 / std::sqrt(sum / n + double{eps});
}

}  // namespace

void Run(const RmsNorm& op) {
  for (int64_t t = 0; t < op.T; ++t) {
    const double scale = InverseRms(op.x + t * op.D, op.D, op.eps);
    for (int d = 0; d < op.D; ++d)
      op.y[t * op.D + d] = static_cast<float>(op.x[t * op.D + d] * scale * double{op.weight[d]});
  }
}

void Run(const HeadNormRope& op) {
  const int half = op.head_dim / 2;
  for (int64_t t = 0; t < op.T; ++t) {
    for (int h = 0; h < op.heads; ++h) {
      float* x = op.x + (t * op.heads + h) * op.head_dim;
      const double scale = InverseRms(x, op.head_dim, op.eps);
      for (int i = 0; i < half; ++i) {
        const double a = x[i] * scale * double{op.weight[i]}, b = x[i + half] * scale * double{op.weight[i + half]};
        const double cos = op.cos[t * half + i], sin = op.sin[t * half + i];
        x[i] = static_cast<float>(a * cos - b * sin);
        x[i + half] = static_cast<float>(b * cos + a * sin);
      }
    }
  }
}

void Run(const SwiGlu& op) {
  for (int64_t i = 0; i < op.n; ++i)
    op.y[i] = static_cast<float>(op.gate[i] / (1 + std::exp(-double{op.gate[i]})) * double{op.up[i]});
}

}  // namespace braid::ref
