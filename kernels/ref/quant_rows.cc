#include "kernels/quant_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace braid::ref {

void Run(const QuantizeRows& op) {
  for (int64_t i = 0; i < int64_t{op.T} * op.K / 32; ++i) {
    const float* x = op.x + 32 * i;
    QuantBlock& block = op.q[i];
    block = {};
    block.start = QuantBlock::kMagicBits;
    float max = 0;
    bool finite = true;
    for (int k = 0; k < 32; ++k) {
      finite = finite && std::isfinite(x[k]);
      max = std::max(max, std::abs(x[k]));
    }
    if (!finite) max = std::numeric_limits<float>::quiet_NaN();
    block.scale = max / 127;
    if (!(block.scale >= std::numeric_limits<float>::min())) continue;
    for (int k = 0; k < 32; ++k) {
      block.q[k] = static_cast<int8_t>(std::nearbyint(x[k] * (127 / max)));
      block.minus_half_sum[k / 16] -= block.q[k];
    }
    block.start += 8 * block.minus_sum();
  }
}

}  // namespace braid::ref
