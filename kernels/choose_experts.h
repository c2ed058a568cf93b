#pragma once

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// Per row: s = sigmoid(logits); the K experts with the largest s + bias, best first, the lower index on a tie; their
// weights are s without the bias, divided by (their sum + 1e-6) if `normalize`, times `scale`.
struct ChooseExperts {
  int T = 0, E = 0, K = 0;
  const float* logits = nullptr;  // (T, E)
  const float* bias = nullptr;    // (E) or nullptr
  bool normalize = false;
  float scale = 1;
  int32_t* experts = nullptr;  // (T, K) out; distinct, in [0, E), whatever the logits
  float* weights = nullptr;    // (T, K) out

  static constexpr int kExpertsMax = 1024;
};
absl::Status Check(const ChooseExperts& op);
void Run(const ChooseExperts& op, ThreadPool& pool);

}  // namespace braid
