#pragma once

#include <span>

#include "base/ids.h"
#include "braid/v1/sampling.pb.h"

// Log probabilities under softmax(logits): the model's own opinion, before temperature, penalties and bias.

namespace braid {

// log(sum(exp(logits))): the exponentials of kernels/softmax.h, which are off by 1e-6 of themselves at most, are added
// in double and in a fixed order. REQUIRES: finite, not empty.
double LogSumExp(std::span<const float> logits);

// Adds the `count` most probable tokens to `out`, best first, ties by lower id. A token whose logit has been set to
// -infinity is not among them; `log_sum` is LogSumExp of the logits before that.
void AddAlternatives(std::span<const float> logits, double log_sum, int count, v1::TokenLogprob* out);

}  // namespace braid
