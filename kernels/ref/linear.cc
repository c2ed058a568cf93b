#include "kernels/linear.h"

#include <vector>

#include "kernels/panels.h"
#include "kernels/ref/dequant.h"

namespace braid::ref {

void Run(const Linear& op) {
  const int K = op.w.columns;
  std::vector<float> w(K);
  for (int n = 0; n < op.w.rows; ++n) {
    if (op.w.layout == Layout::kPanels) {
      DequantizePackedRow(op.w, n, w.data());
    } else {
      Dequantize(op.w.type, op.w.row(n), K, w.data());
    }
    for (int64_t t = 0; t < op.T; ++t) {
      double sum = 0;
      for (int k = 0; k < K; ++k) {
        const QuantBlock* q = op.q + (t * K + k) / 32;
        const double x = op.w.layout == Layout::kPanels ? double{q->scale} * q->q[k % 32] : double{op.x[t * K + k]};
        sum += double{w[k]} * x;
      }
      op.y[t * op.w.rows + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace braid::ref
