#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// The next token of each row, on the device, so that the next step need not wait for the host.
//
// Temperature 0: the highest logit, the lower id on a tie. Else a draw among the tokens with at least min_share of the
// best one's probability: the first, by id, at which the sum of probabilities exceeds `uniform`. A row's token depends
// on the row alone. -1 where a logit is NaN or the highest one is not finite: the host has to answer for that.
//
// Rows that want more (top K, top P, penalties, a grammar) are the host's.
struct DrawTokens {
  int T = 0, V = 0;                    // V a multiple of 8, at most kTokensMax
  const float* logits = nullptr;       // (T, V); -infinity rules a token out
  const float* temperature = nullptr;  // (T)
  const float* min_share = nullptr;    // (T), each at most 1; nullptr: 0
  const double* uniform = nullptr;     // (T), each in [0, 1)
  int32_t* tokens = nullptr;           // (T) out

  static constexpr int kTokensMax = 1 << 20;
};
absl::Status Check(const DrawTokens& op);
cudaError_t Run(const DrawTokens& op, cudaStream_t stream);

}  // namespace braid::gpu
