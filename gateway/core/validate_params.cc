#include <fmt/format.h>

#include <cfloat>
#include <cmath>
#include <unordered_set>

#include "gateway/core/validate_parts.h"

namespace braid {
namespace {

// A range as the documentation writes it: "(0, 1]" excludes its lower end.
struct Range {
  double low, high;
  bool open_low = false;
  bool Contains(double v) const { return (open_low ? v > low : v >= low) && v <= high; }  // false for NaN
  std::string ToString() const { return fmt::format("{}{}, {}]", open_low ? '(' : '[', low, high); }
};

MaybeError Resolve(const std::optional<double>& given, const char* param, Range range, float fallback, float* value) {
  *value = fallback;
  if (!given) return std::nullopt;
  if (!range.Contains(*given)) return Invalid(param, fmt::format("{} must be a number in {}", param, range.ToString()));
  *value = static_cast<float>(*given);
  if (range.open_low && *value <= range.low) *value = FLT_MIN;  // positive, but rounded to the excluded end
  return std::nullopt;
}

MaybeError ResolveInt(const std::optional<int64_t>& given, const char* param, int64_t low, int64_t high,
                      int64_t fallback, int64_t* value) {
  *value = given.value_or(fallback);
  if (*value >= low && *value <= high) return std::nullopt;
  return Invalid(param, fmt::format("{} must be an integer in [{}, {}]", param, low, high));
}

MaybeError ResolveSampling(const GenerationParams& params, const GenerationDefaults& defaults,
                           v1::SamplingParams* sampling) {
  constexpr float kGreedyBelow = 1e-4f;
  float value = 0;
  RETURN_IF_INVALID(Resolve(params.temperature, "temperature", {0, 2}, defaults.temperature, &value));
  sampling->set_temperature(value < kGreedyBelow ? 0 : value);
  RETURN_IF_INVALID(Resolve(params.top_p, "top_p", {0, 1, true}, defaults.top_p, &value));
  sampling->set_top_p(value);
  RETURN_IF_INVALID(Resolve(params.min_p, "min_p", {0, 1}, defaults.min_p, &value));
  sampling->set_min_p(value);
  RETURN_IF_INVALID(
      Resolve(params.repetition_penalty, "repetition_penalty", {0, 2, true}, defaults.repetition_penalty, &value));
  sampling->set_repetition_penalty(value);
  RETURN_IF_INVALID(Resolve(params.presence_penalty, "presence_penalty", {-2, 2}, 0, &value));
  sampling->set_presence_penalty(value);
  RETURN_IF_INVALID(Resolve(params.frequency_penalty, "frequency_penalty", {-2, 2}, 0, &value));
  sampling->set_frequency_penalty(value);
  int64_t top_k = 0;
  RETURN_IF_INVALID(ResolveInt(params.top_k, "top_k", 0, INT32_MAX, defaults.top_k, &top_k));
  sampling->set_top_k(static_cast<uint32_t>(top_k));
  return std::nullopt;
}

MaybeError ResolveSeed(const std::optional<int64_t>& seed, uint64_t fresh, v1::SamplingParams* sampling) {
  if (seed && *seed < 0) return Invalid("seed", "seed must not be negative; leave it out for a random one");
  sampling->set_seed(seed ? static_cast<uint64_t>(*seed) : fresh);
  return std::nullopt;
}

MaybeError ResolveBias(const GenerationParams& params, int vocab_size, v1::SamplingParams* sampling) {
  if (params.logit_bias.size() > kLogitBiasMax)
    return Invalid("logit_bias", fmt::format("logit_bias may have at most {} entries", kLogitBiasMax));
  std::unordered_set<int64_t> seen;
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < 0 || token >= vocab_size)
      return Invalid("logit_bias",
                     fmt::format("logit_bias: there is no token {}; ids are in [0, {})", token, vocab_size));
    if (!seen.insert(token).second) return Invalid("logit_bias", fmt::format("logit_bias names token {} twice", token));
    if (!(bias >= -100 && bias <= 100))
      return Invalid("logit_bias", fmt::format("logit_bias of token {} must be a number in [-100, 100]", token));
    v1::LogitBias* entry = sampling->add_logit_bias();
    entry->set_token(static_cast<TokenId>(token));
    entry->set_bias(static_cast<float>(bias));
  }
  return std::nullopt;
}

MaybeError ResolveStops(const GenerationParams& params, PreparedCall* call) {
  if (params.stop.size() > kStopsMax)
    return Invalid("stop", fmt::format("stop may hold at most {} strings", kStopsMax));
  for (size_t i = 0; i < params.stop.size(); ++i) {
    const std::string param = fmt::format("stop[{}]", i);
    if (params.stop[i].empty()) return Invalid(param, "a stop string must not be empty");
    if (params.stop[i].size() > kStopBytesMax)
      return Invalid(param, fmt::format("a stop string may have at most {} bytes", kStopBytesMax));
    if (!IsValidUtf8(params.stop[i])) return Invalid(param, "a stop string must be valid UTF-8");
  }
  call->stop = params.stop;
  return std::nullopt;
}

MaybeError ResolveLogprobs(const GenerationParams& params, PreparedCall* call) {
  if (params.top_logprobs < 0 || params.top_logprobs > kTopLogprobsMax)
    return Invalid("top_logprobs", fmt::format("top_logprobs must be an integer in [0, {}]", kTopLogprobsMax));
  if (params.top_logprobs > 0 && !params.logprobs)
    return Invalid("top_logprobs", "top_logprobs needs logprobs to be true");
  call->want_logprobs = params.logprobs;
  call->top_logprobs = static_cast<int>(params.top_logprobs);
  return std::nullopt;
}

}  // namespace

MaybeError ResolveParams(const GenerationParams& params, const ServedModel& model, const CallContext& context,
                         PreparedCall* call) {
  RETURN_IF_INVALID(ResolveSampling(params, model.defaults, &call->sampling));
  RETURN_IF_INVALID(ResolveSeed(params.seed, context.fresh_seed, &call->sampling));
  RETURN_IF_INVALID(ResolveBias(params, model.vocab_size, &call->sampling));
  RETURN_IF_INVALID(ResolveStops(params, call));
  RETURN_IF_INVALID(ResolveLogprobs(params, call));
  int64_t n = 0;
  RETURN_IF_INVALID(ResolveInt(params.n, "n", 1, kChoicesMax, 1, &n));
  call->n = static_cast<int>(n);
  if (params.max_tokens && *params.max_tokens < 1) return Invalid("max_tokens", "max_tokens must be at least 1");
  call->no_cache = context.share_prefixes == SharePrefixes::kNone;
  if (!call->no_cache) {
    call->cache_scope = CacheScope(context.share_prefixes, context.api_key, params.user, params.cache_salt);
  }
  if (!params.ignore_eos) call->stop_tokens = model.tokenizer->stop_tokens();
  return std::nullopt;
}

}  // namespace braid
