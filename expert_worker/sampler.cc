#include "expert_worker/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/rng.h"
#include "base/status.h"
#include "expert_worker/top_tokens.h"
#include "kernels/exp.h"

namespace braid {
namespace {

// Far beyond what a model emits; keeps the arithmetic below free of infinities when a tiny penalty divides a logit.
constexpr float kLogitMax = 1e30f;

// How many of the best tokens top_p looks at first; most distributions need far fewer.
constexpr size_t kTopPFirstLook = 256;

struct Candidate {
  TokenId token;
  float weight;  // probability times an unknown constant; the best token has 1
};

bool InRange(float value, float low, float high) { return value >= low && value <= high; }  // false for NaN

void ApplyBiasAndPenalties(std::span<float> logits, const v1::SamplingParams& params, const TokenCounts& counts) {
  for (const v1::LogitBias& bias : params.logit_bias()) logits[bias.token()] += bias.bias();
  if (!UsesCounts(params)) return;
  const float repetition = params.repetition_penalty();
  for (const auto& [token, count] : counts.counts()) {
    float logit = logits[token];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count.answer > 0) {
      logit -= params.presence_penalty() + params.frequency_penalty() * static_cast<float>(count.answer);
    }
    logits[token] = std::clamp(logit, -kLogitMax, kLogitMax);
  }
}

// e^((logit - max) / temperature). Dividing gives 0 or -infinity for the tiniest temperature, never NaN. The
// exponential is the kernels', whose bits do not depend on the machine's C library.
float Weight(float logit, float max, float temperature) { return Exp((logit - max) / temperature); }

// The weight of every token by id, 0 if it is below `weight_min`.
std::vector<float> WeighAll(std::span<const float> logits, float max, float temperature, float weight_min) {
  constexpr size_t kLanes = 32;  // a fixed inner loop is what the compiler vectorises
  std::vector<float> weights(logits.size());
  const auto weigh = [&](size_t i) {
    const float weight = Weight(logits[i], max, temperature);
    weights[i] = weight >= weight_min ? weight : 0.0f;
  };
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) weigh(i + lane);
  }
  for (; i < logits.size(); ++i) weigh(i);
  return weights;
}

std::vector<Candidate> Weigh(const std::vector<ScoredToken>& tokens, float max, float temperature) {
  std::vector<Candidate> candidates;
  candidates.reserve(tokens.size());
  for (const ScoredToken& token : tokens) candidates.push_back({token.token, Weight(token.logit, max, temperature)});
  return candidates;
}

double Sum(std::span<const float> weights) {
  double sum = 0;
  for (const float weight : weights) sum += weight;
  return sum;
}

double Sum(std::span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// Keeps the shortest prefix that reaches `mass`; false if all together do not.
bool KeepMass(std::vector<Candidate>* candidates, double mass) {
  double sum = 0;
  for (size_t i = 0; i < candidates->size(); ++i) {
    sum += (*candidates)[i].weight;
    if (sum < mass) continue;
    candidates->resize(i + 1);
    return true;
  }
  return false;
}

// The best tokens that top_k and then top_p leave, best first.
std::vector<Candidate> TopKTopP(std::span<const float> logits, float max, const v1::SamplingParams& params) {
  const float temperature = params.temperature();
  const double top_p = params.top_p();
  if (params.top_k() > 0) {
    std::vector<Candidate> candidates = Weigh(TopTokens(logits, params.top_k()), max, temperature);
    if (top_p < 1) KeepMass(&candidates, top_p * Sum(candidates));
    return candidates;
  }
  const double total = Sum(WeighAll(logits, max, temperature, 0));
  for (size_t look = kTopPFirstLook;; look *= 8) {
    std::vector<Candidate> candidates = Weigh(TopTokens(logits, look), max, temperature);
    if (KeepMass(&candidates, top_p * total) || look >= logits.size()) return candidates;
  }
}

std::vector<Candidate> BestCandidates(std::span<const float> logits, float max, const v1::SamplingParams& params) {
  std::vector<Candidate> candidates = TopKTopP(logits, max, params);
  // Best first, so min_p cuts off a tail; the best token itself has weight 1 and always stays.
  while (candidates.back().weight < params.min_p()) candidates.pop_back();
  return candidates;
}

// The first token at which the running sum of weights passes the drawn share of the whole. Best first.
TokenId DrawBest(std::span<const Candidate> candidates, double uniform) {
  const double target = uniform * Sum(candidates);
  double sum = 0;
  for (const Candidate& candidate : candidates) {
    sum += candidate.weight;
    if (sum > target) return candidate.token;
  }
  return candidates.back().token;  // uniform < 1, so only rounding leads here
}

// The same in id order, over the whole vocabulary. `best`: any token with a weight.
TokenId DrawAny(std::span<const float> weights, TokenId best, double uniform) {
  const double target = uniform * Sum(weights);
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum > target) return static_cast<TokenId>(i);
  }
  return best;
}

}  // namespace

absl::Status CheckSampling(const v1::SamplingParams& params, int vocab_size) {
  const auto refuse = [](const char* field, double value, const char* range) {
    return InvalidArgument(fmt::format("sampling.{} is {}, must be in {}", field, value, range));
  };
  if (!InRange(params.temperature(), 0, 2)) return refuse("temperature", params.temperature(), "[0, 2]");
  if (!InRange(params.top_p(), 0, 1) || params.top_p() == 0) return refuse("top_p", params.top_p(), "(0, 1]");
  if (!InRange(params.min_p(), 0, 1)) return refuse("min_p", params.min_p(), "[0, 1]");
  if (!InRange(params.repetition_penalty(), 0, 2) || params.repetition_penalty() == 0) {
    return refuse("repetition_penalty", params.repetition_penalty(), "(0, 2]");
  }
  if (!InRange(params.presence_penalty(), -2, 2))
    return refuse("presence_penalty", params.presence_penalty(), "[-2, 2]");
  if (!InRange(params.frequency_penalty(), -2, 2)) {
    return refuse("frequency_penalty", params.frequency_penalty(), "[-2, 2]");
  }
  for (const v1::LogitBias& bias : params.logit_bias()) {
    if (bias.token() < 0 || bias.token() >= vocab_size)
      return refuse("logit_bias.token", bias.token(), "the vocabulary");
    if (!InRange(bias.bias(), -100, 100)) return refuse("logit_bias.bias", bias.bias(), "[-100, 100]");
  }
  return absl::OkStatus();
}

void TokenCounts::Remove(TokenId token, bool answer) {
  const auto count = counts_.find(token);
  CHECK(count != counts_.end());
  count->second.answer -= answer;
  if (--count->second.all == 0) counts_.erase(count);
}

bool UsesCounts(const v1::SamplingParams& params) {
  return params.repetition_penalty() != 1 || params.presence_penalty() != 0 || params.frequency_penalty() != 0;
}

absl::StatusOr<TokenId> SampleToken(std::span<float> logits, const v1::SamplingParams& params,
                                    const TokenCounts& counts, std::span<const TokenId> masked, uint64_t position) {
  if (!AllFinite(logits)) return absl::InternalError("the model's logits are not finite");
  ApplyBiasAndPenalties(logits, params, counts);
  for (TokenId token : masked) logits[token] = -std::numeric_limits<float>::infinity();
  const TokenId best = ArgMax(logits);
  const float max = logits[best];
  if (std::isinf(max)) return absl::InternalError("every token of the vocabulary is masked");
  if (params.temperature() == 0) return best;

  const double uniform = UniformAt(params.seed(), params.choice(), position);
  if (params.top_k() > 0 || params.top_p() < 1) return DrawBest(BestCandidates(logits, max, params), uniform);
  // Without top_k and top_p no order by probability is needed.
  return DrawAny(WeighAll(logits, max, params.temperature(), params.min_p()), best, uniform);
}

}  // namespace braid
