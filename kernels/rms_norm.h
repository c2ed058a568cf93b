#pragma once

#include "absl/status/status.h"
#include "kernels/quant_rows.h"
#include "kernels/thread_pool.h"

namespace braid {

// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight. The mean is taken in double. On the way, where asked for: what is
// normed is x + add, and is kept in `sum`; y is quantised as QuantizeRows does.
struct RmsNorm {
  int T = 0, D = 0;
  const float* x = nullptr;       // (T, D)
  const float* weight = nullptr;  // (D)
  float eps = 0;
  float* y = nullptr;          // (T, D); may be x
  const float* add = nullptr;  // (T, D)
  float* sum = nullptr;        // (T, D); may be x
  QuantBlock* q = nullptr;     // (T, D / 32)
};
absl::Status Check(const RmsNorm& op);
void Run(const RmsNorm& op, ThreadPool& pool);

namespace ref {
void Run(const RmsNorm& op);
}

}  // namespace braid
