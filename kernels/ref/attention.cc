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
      std::vector<double> p(row.position + 1);
      for (int j = 0; j <= row.position; ++j) {
        for (int d = 0; d < dim; ++d)
          p[j] += double{op.q[at + d]} * op.arena.Key(row, j, h / group, d);
        p[j] /= std::sqrt(static_cast<double>(dim));
      }
      const double max = *std::ranges::max_element(p);
      double sum = 0;
      for (double& value : p) sum += value = std::exp(value - max);
      for (int d = 0; d < dim; ++d) {
        double y = 0;
        for (int j = 0; j <= row.position; ++j) y += p[j] * op.arena.Value(row, j, h / group, d);
        op.y[at + d] = static_cast<float>(y / sum);
      }
    }
  }
}

}  // namespace braid::ref
