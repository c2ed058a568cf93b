#include "expert_worker/logprobs.h"

#include <cmath>

#include "expert_worker/top_tokens.h"

namespace braid {

double LogSumExp(std::span<const float> logits) {
  const double max = logits[ArgMax(logits)];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

void AddAlternatives(std::span<const float> logits, double log_sum, int count, v1::TokenLogprob* out) {
  for (const ScoredToken& best : TopTokens(logits, count)) {
    v1::TokenAlternative* alternative = out->add_top();
    alternative->set_token(best.token);
    alternative->set_logprob(static_cast<float>(best.logit - log_sum));
  }
}

}  // namespace braid
