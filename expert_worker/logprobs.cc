#include "expert_worker/logprobs.h"

#include <cmath>
#include <vector>

#include "expert_worker/top_tokens.h"
#include "kernels/softmax.h"

namespace braid {

double LogSumExp(std::span<const float> logits) {
  thread_local LogitRow row;
  row.Read(logits);
  const SoftmaxWeights weights{.max = row.max()};
  float w[kLogitBlock];
  double sum = 0;
  for (int b = 0; b < row.blocks(); ++b) {
    const std::span<const float> block = row.block(b);
    sum += Weigh(weights, block.data(), static_cast<int>(block.size()), w);
  }
  return static_cast<double>(row.max()) + std::log(sum);
}

void AddAlternatives(std::span<const float> logits, double log_sum, int count, v1::TokenLogprob* out) {
  thread_local std::vector<ScoredToken> best;
  TopTokens(logits, static_cast<size_t>(count), &best);
  for (const ScoredToken& token : best) {
    v1::TokenAlternative* alternative = out->add_top();
    alternative->set_token(token.token);
    alternative->set_logprob(static_cast<float>(token.logit - log_sum));
  }
}

}  // namespace braid
