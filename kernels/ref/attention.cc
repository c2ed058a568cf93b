#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace braid::ref {

void Run(const Attention& op) {
  const int dim = op.head_dim, group = op.heads / op.kv_heads;
  for (int t = 0; t < op.T; ++t) {
    const KvRow& row = op.rows[t];
    for (int h = 0; h < op.heads; ++h) {
      const int64_t at = (int64_t{t} * op.heads + h) * dim;
      const int kv_at = h / group * dim;
      std::vector<double> p(row.position + 1);
      for (int j = 0; j <= row.position; ++j) {
        const float* k = op.arena.key(row, j) + kv_at;
        for (int i = 0; i < dim; ++i) p[j] += double{op.q[at + i]} * double{k[i]};
        p[j] /= std::sqrt(static_cast<double>(dim));
      }
      const double max = *std::ranges::max_element(p);
      double sum = 0;
      for (double& value : p) sum += value = std::exp(value - max);
      for (int i = 0; i < dim; ++i) {
        double y = 0;
        for (int j = 0; j <= row.position; ++j) y += p[j] * double{op.arena.value(row, j)[kv_at + i]};
        op.y[at + i] = static_cast<float>(y / sum);
      }
    }
  }
}

}  // namespace braid::ref
