#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// What a request wants changed of one logit: its bias, and how often the token has occurred, as far as that counts.
struct LogitEdit {
  int32_t row = 0, token = 0;
  float bias = 0;
  int32_t all = 0;     // times in prompt and answer; 0: no penalty
  int32_t answer = 0;  // of them, in the answer
};

// Changes rows of logits in place, before DrawTokens, as expert_worker/sampler.h says: adds the bias; then, of a token
// that has occurred, divides a positive logit by the row's repetition penalty and multiplies a negative one, and takes
// the presence penalty and, for each time in the answer, the frequency penalty from a token of the answer. The bits are
// the CPU's. Who wants log probabilities has to take them before.
struct EditLogits {
  int T = 0, V = 0;
  float* logits = nullptr;            // (T, V)
  const LogitEdit* edits = nullptr;   // (edit_count), no two of one logit, none of a masked one
  int edit_count = 0;                 // a NaN stays one
  const float* repetition = nullptr;  // (T), each positive; this and the next two only if some edit has `all`
  const float* presence = nullptr;    // (T)
  const float* frequency = nullptr;   // (T)
  const int32_t* masked = nullptr;    // (masked_count), tokens that no row may have: -infinity
  int masked_count = 0;
};
absl::Status Check(const EditLogits& op);
cudaError_t Run(const EditLogits& op, cudaStream_t stream);

}  // namespace braid::gpu
