#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// As kernels/choose_experts.h. Per row: s = sigmoid(logits); the K experts with the largest s + bias, best first, the
// lower index on a tie; their weights are s without the bias, divided by (their sum + 1e-6) if `normalize`, times
// `scale`. Experts are distinct, in [0, E), whatever the logits: a NaN counts as the lowest.
struct ChooseExperts {
  int T = 0, E = 0, K = 0;        // E at most 1024, K at most 32
  const float* logits = nullptr;  // (T, E)
  const float* bias = nullptr;    // (E) or nullptr
  bool normalize = false;
  float scale = 1;
  int32_t* experts = nullptr;  // (T, K) out
  float* weights = nullptr;    // (T, K) out
  // (T): a row with one below 0 pads the step, its experts are -1; nullptr: there are none.
  const int32_t* positions = nullptr;

  static constexpr int kExpertsMax = 1024;
  static constexpr int kChosenMax = 32;
};
absl::Status Check(const ChooseExperts& op);
cudaError_t Run(const ChooseExperts& op, cudaStream_t stream);

}  // namespace braid::gpu
