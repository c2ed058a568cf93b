#pragma once

#include "absl/status/status.h"
#include "braid/v1/router.pb.h"
#include "braid/v1/worker.pb.h"
#include "router/router.h"

// What may come in from outside. Every message of a gateway or a worker passes here before the core believes it.

namespace braid {

// kInvalidArgument naming the option: out of range, or contradicting another.
absl::Status CheckOptions(const RouterOptions& options);

// What all workers agree on, and what requests are checked against.
struct ModelLimits {
  uint32_t context_tokens_max = 0;
  uint32_t vocab_size = 0;
  uint64_t kv_tokens_max = 0;  // positions that the roomiest worker could hold for one sequence
};

// kInvalidArgument naming the field and its range: the request can never be served.
absl::Status CheckRequest(const v1::GenerateSequenceRequest& request, const ModelLimits& limits);

// kInvalidArgument naming the field.
absl::Status CheckHello(const v1::Hello& hello);
// Whether what workers like these have begun may go on at those.
bool AnswerAlike(const v1::Hello& a, const v1::Hello& b);
// kFailedPrecondition naming the field in which a worker differs from those attached before it.
absl::Status CheckSameCluster(const v1::Hello& hello, const v1::Hello& other);

// kInvalidArgument if a token does not exist, a log probability is not a number or there are too many alternatives.
absl::Status CheckLogprob(const v1::TokenLogprob& logprob, uint32_t vocab_size);

}  // namespace braid
