#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// The next token of each row, on the device, so that the next step need not wait for the host.
//
// The rule of expert_worker/sampler.h behind its penalties, which EditLogits has: at temperature 0 the highest logit;
// else of the top_k first tokens the fewest, best first, that have top_p of their probability, of those the ones with
// at least min_share of the best one's, and of them the first, by id, at which the sum of probabilities exceeds
// `uniform`. Equal logits rank by lower id. Probabilities are exp2f's; for top_p they count in units of 2^-43 of the
// best one.
//
// A row's token depends on the row alone. -1 where a logit is NaN or the highest one is not finite: the host has to
// answer for that. Rows that obey a grammar are the host's.
struct DrawTokens {
  int T = 0, V = 0;                    // V a multiple of 8, at most kTokensMax
  const float* logits = nullptr;       // (T, V); -infinity rules a token out
  const float* temperature = nullptr;  // (T)
  const int32_t* top_k = nullptr;      // (T), each 0: off, or positive; nullptr: off
  const float* top_p = nullptr;        // (T), each in (0, 1], 1: off; nullptr: off
  const float* min_share = nullptr;    // (T), each at most 1; nullptr: 0
  const double* uniform = nullptr;     // (T), each in [0, 1)
  int32_t* tokens = nullptr;           // (T) out

  static constexpr int kTokensMax = 1 << 20;
};
absl::Status Check(const DrawTokens& op);
cudaError_t Run(const DrawTokens& op, cudaStream_t stream);

}  // namespace braid::gpu
