#include "expert_worker/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/rng.h"
#include "base/status.h"
#include "expert_worker/logit_edits.h"
#include "expert_worker/token_draw.h"
#include "expert_worker/top_tokens.h"

namespace braid {
namespace {

// Far beyond what a model emits; keeps the arithmetic below free of infinities when a tiny penalty divides a logit.
constexpr float kLogitMax = 1e30f;

// What a thread needs to sample, row after row. Grows to the vocabulary and stays.
struct Scratch {
  LogitRow row;
  TokenDraw draw;
  std::vector<ScoredToken> saved;
};

bool InRange(float value, float low, float high) { return value >= low && value <= high; }  // false for NaN

void ApplyBiasAndPenalties(std::span<const float> logits, const v1::SamplingParams& params, const TokenCounts& counts,
                           LogitEdits* edits) {
  for (const v1::LogitBias& bias : params.logit_bias()) edits->Set(bias.token(), logits[bias.token()] + bias.bias());
  if (!UsesCounts(params)) return;
  const float repetition = params.repetition_penalty();
  for (const auto& [token, count] : counts.counts()) {
    float logit = logits[token];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count.answer > 0) {
      logit -= params.presence_penalty() + params.frequency_penalty() * static_cast<float>(count.answer);
    }
    edits->Set(token, std::clamp(logit, -kLogitMax, kLogitMax));
  }
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
  thread_local Scratch scratch;
  LogitRow& row = scratch.row;
  if (!row.Read(logits)) return absl::InternalError("the model's logits are not finite");
  LogitEdits edits(logits, &scratch.saved);
  ApplyBiasAndPenalties(logits, params, counts, &edits);
  for (TokenId token : masked) edits.Set(token, -std::numeric_limits<float>::infinity());
  if (!edits.empty()) row.Read(logits);
  if (std::isinf(row.max())) return absl::InternalError("every token of the vocabulary is masked");
  if (params.temperature() == 0) return row.Best();

  TokenDraw& draw = scratch.draw;
  draw.Start(&row, params.temperature());
  if (params.top_k() > 0) draw.KeepBest(params.top_k());
  if (params.top_p() < 1) draw.KeepMass(static_cast<double>(params.top_p()));
  return draw.Draw(params.min_p(), UniformAt(params.seed(), params.choice(), position));
}

}  // namespace braid
