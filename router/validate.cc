#include "router/validate.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "router/scheduler.h"

namespace braid {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kNameBytesMax = 256;
constexpr int kLogitBiasMax = 1024;
constexpr int kStopTokensMax = 256;
constexpr uint32_t kTopLogprobsMax = 20;
// Beyond any machine; they keep sums and products of what workers say far from overflow.
constexpr uint64_t kKvBlocksMax = uint64_t{1} << 31;
constexpr uint32_t kCountMax = 1 << 24;
constexpr double kEpochMax = 4e18;  // far from overflow, whatever is added to it

// Written so that NaN is outside.
absl::Status InRange(double value, double low, double high, const char* field) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument(absl::StrCat(field, " is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status Positive(double value, double high, const char* field) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return InvalidArgument(absl::StrCat(field, " is ", value, "; it must be in (0, ", high, "]"));
}

bool IsToken(int32_t token, uint32_t vocab_size) { return token >= 0 && static_cast<uint32_t>(token) < vocab_size; }

template <typename Tokens>
absl::Status AllTokens(const Tokens& tokens, uint32_t vocab_size, const char* field) {
  for (int i = 0; i < tokens.size(); ++i) {
    if (IsToken(tokens[i], vocab_size)) continue;
    return InvalidArgument(
        absl::StrCat(field, "[", i, "] is ", tokens[i], "; the model has tokens 0 to ", vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const v1::SamplingParams& sampling, uint32_t vocab_size) {
  RETURN_IF_ERROR(InRange(sampling.temperature(), 0, 2, "sampling.temperature"));
  RETURN_IF_ERROR(Positive(sampling.top_p(), 1, "sampling.top_p"));
  RETURN_IF_ERROR(InRange(sampling.min_p(), 0, 1, "sampling.min_p"));
  RETURN_IF_ERROR(Positive(sampling.repetition_penalty(), 2, "sampling.repetition_penalty"));
  RETURN_IF_ERROR(InRange(sampling.presence_penalty(), -2, 2, "sampling.presence_penalty"));
  RETURN_IF_ERROR(InRange(sampling.frequency_penalty(), -2, 2, "sampling.frequency_penalty"));
  RETURN_IF_ERROR(InRange(sampling.logit_bias_size(), 0, kLogitBiasMax, "the length of sampling.logit_bias"));
  for (const v1::LogitBias& bias : sampling.logit_bias()) {
    if (!IsToken(bias.token(), vocab_size)) {
      return InvalidArgument(absl::StrCat("sampling.logit_bias names token ", bias.token(),
                                          "; the model has tokens 0 to ", vocab_size - 1));
    }
    RETURN_IF_ERROR(InRange(bias.bias(), -100, 100, "sampling.logit_bias.bias"));
  }
  return absl::OkStatus();
}

absl::Status CheckLength(const v1::GenerateSequenceRequest& request, const ModelLimits& limits) {
  if (request.prompt().empty()) return InvalidArgument("prompt is empty; it needs at least one token");
  if (request.max_new_tokens() == 0) return InvalidArgument("max_new_tokens is 0; it must be at least 1");
  const uint64_t tokens = static_cast<uint64_t>(request.prompt_size()) + request.max_new_tokens();
  if (tokens > limits.context_tokens_max) {
    return InvalidArgument(absl::StrCat("prompt and max_new_tokens make ", tokens, " tokens; the context has ",
                                        limits.context_tokens_max));
  }
  if (tokens > limits.kv_tokens_max) {
    return InvalidArgument(absl::StrCat("prompt and max_new_tokens make ", tokens,
                                        " tokens; the largest worker has KV memory for ", limits.kv_tokens_max));
  }
  return absl::OkStatus();
}

// An earlier call would have ended behind a stop token, or at the limit.
absl::Status CheckGenerated(const v1::GenerateSequenceRequest& request) {
  if (static_cast<uint64_t>(request.generated_size()) > request.max_new_tokens()) {
    return InvalidArgument(absl::StrCat("generated has ", request.generated_size(),
                                        " tokens, more than max_new_tokens (", request.max_new_tokens(), ")"));
  }
  for (int i = 0; i + 1 < request.generated_size(); ++i) {
    for (int32_t stop : request.stop_tokens()) {
      if (request.generated(i) == stop) {
        return InvalidArgument(absl::StrCat("generated[", i, "] is a stop token, but more tokens follow it"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckOptions(const RouterOptions& options) {
  RETURN_IF_ERROR(InRange(options.workers, 1, 4096, "workers"));
  RETURN_IF_ERROR(InRange(options.workers_max, 0, 4096, "workers_max"));
  if (options.workers_max > 0 && options.workers_max < options.workers) {
    return InvalidArgument("workers_max is less than workers, so that no group could ever begin");
  }
  RETURN_IF_ERROR(InRange(options.groups, 0, 1024, "groups"));
  RETURN_IF_ERROR(InRange(options.replica_experts, 0, 1 << 16, "replica_experts"));
  RETURN_IF_ERROR(InRange(options.rebalance_experts, 0, 1 << 16, "rebalance_experts"));
  if (options.rebalance_interval < absl::Seconds(1)) return InvalidArgument("rebalance_interval must be at least 1 s");
  RETURN_IF_ERROR(InRange(options.step_tokens, Scheduler::kStepTokensMin, 1 << 20, "step_tokens"));
  RETURN_IF_ERROR(InRange(options.chunk_tokens, 1, 1 << 20, "chunk_tokens"));
  RETURN_IF_ERROR(InRange(options.draft_tokens_max, 0, DraftPlanner::kDraftsMax, "draft_tokens_max"));
  RETURN_IF_ERROR(InRange(options.sequences_max, 1, 1 << 20, "sequences_max"));
  RETURN_IF_ERROR(InRange(options.snapshot_tokens, 1, 1 << 20, "snapshot_tokens"));
  RETURN_IF_ERROR(InRange(options.queue_max, 1, 1 << 20, "queue_max"));
  RETURN_IF_ERROR(InRange(absl::ToDoubleMilliseconds(options.heartbeat), 10, 60'000, "heartbeat (ms)"));
  RETURN_IF_ERROR(InRange(absl::ToDoubleMilliseconds(options.step_timeout), 10, 86'400'000, "step_timeout (ms)"));
  if (options.heartbeat_timeout < 2 * options.heartbeat || options.heartbeat_timeout > absl::Hours(1)) {
    return InvalidArgument("heartbeat_timeout must be at least twice heartbeat, so that one late beat is no death");
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const v1::GenerateSequenceRequest& request, const ModelLimits& limits) {
  if (request.request_id().size() > kRequestIdBytesMax) {
    return InvalidArgument(absl::StrCat("request_id is longer than ", kRequestIdBytesMax, " bytes"));
  }
  if (request.cache_scope().size() > kRequestIdBytesMax) {
    return InvalidArgument(absl::StrCat("cache_scope is longer than ", kRequestIdBytesMax, " bytes"));
  }
  RETURN_IF_ERROR(CheckLength(request, limits));
  RETURN_IF_ERROR(AllTokens(request.prompt(), limits.vocab_size, "prompt"));
  RETURN_IF_ERROR(AllTokens(request.generated(), limits.vocab_size, "generated"));
  RETURN_IF_ERROR(AllTokens(request.stop_tokens(), limits.vocab_size, "stop_tokens"));
  RETURN_IF_ERROR(InRange(request.stop_tokens_size(), 0, kStopTokensMax, "the length of stop_tokens"));
  RETURN_IF_ERROR(CheckGenerated(request));
  RETURN_IF_ERROR(InRange(request.top_logprobs(), 0, kTopLogprobsMax, "top_logprobs"));
  if (request.top_logprobs() > 0 && !request.want_logprobs() && !request.want_prompt_logprobs()) {
    return InvalidArgument("top_logprobs needs want_logprobs");
  }
  return CheckSampling(request.sampling(), limits.vocab_size);
}

absl::Status CheckHello(const v1::Hello& hello) {
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.name().size()), 0, kNameBytesMax, "the length of hello.name"));
  RETURN_IF_ERROR(
      InRange(static_cast<double>(hello.model_digest().size()), 1, kNameBytesMax, "the length of hello.model_digest"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.exchange().size()), 1, 32, "the length of hello.exchange"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.kv_blocks()), 1, kKvBlocksMax, "hello.kv_blocks"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.kv_type().size()), 1, 32, "the length of hello.kv_type"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.arithmetic().size()), 1, 64, "the length of hello.arithmetic"));
  RETURN_IF_ERROR(InRange(hello.kv_block_tokens(), 1, 1 << 16, "hello.kv_block_tokens"));
  RETURN_IF_ERROR(InRange(hello.sequences_max(), 1, kCountMax, "hello.sequences_max"));
  RETURN_IF_ERROR(InRange(hello.step_tokens_max(), Scheduler::kStepTokensMin, kCountMax, "hello.step_tokens_max"));
  RETURN_IF_ERROR(InRange(hello.expert_count(), 0, 1 << 16, "hello.expert_count"));
  RETURN_IF_ERROR(InRange(hello.moe_layers(), hello.expert_count() > 0 ? 1 : 0, hello.expert_count() > 0 ? 1024 : 0,
                          "hello.moe_layers"));
  RETURN_IF_ERROR(InRange(hello.expert_slots(), 0,
                          static_cast<double>(uint64_t{hello.moe_layers()} * hello.expert_count()),
                          "hello.expert_slots"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.epoch()), 0, kEpochMax, "hello.epoch"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.group().size()), 0, kNameBytesMax, "the length of hello.group"));
  RETURN_IF_ERROR(InRange(static_cast<double>(hello.host().size()), 0, 2 * kNameBytesMax, "the length of hello.host"));
  RETURN_IF_ERROR(InRange(hello.snapshots_max(), 0, kCountMax, "hello.snapshots_max"));
  RETURN_IF_ERROR(InRange(hello.ranks_max(), 0, kCountMax, "hello.ranks_max"));
  RETURN_IF_ERROR(InRange(hello.context_tokens_max(), 2, kCountMax, "hello.context_tokens_max"));
  return InRange(hello.vocab_size(), 1, kCountMax, "hello.vocab_size");
}

bool AnswerAlike(const v1::Hello& a, const v1::Hello& b) {
  return a.model_digest() == b.model_digest() && a.kv_type() == b.kv_type() && a.arithmetic() == b.arithmetic();
}

absl::Status CheckSameCluster(const v1::Hello& hello, const v1::Hello& other) {
  auto same = [&other](const auto& mine, const auto& theirs, const char* field) {
    if (mine == theirs) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("hello.", field, " is ", mine, ", but worker \"", other.name(),
                                                      "\" attached with ", theirs, "; all workers must agree"));
  };
  RETURN_IF_ERROR(same(hello.model_digest(), other.model_digest(), "model_digest"));
  RETURN_IF_ERROR(same(hello.kv_type(), other.kv_type(), "kv_type"));
  RETURN_IF_ERROR(same(hello.arithmetic(), other.arithmetic(), "arithmetic"));
  RETURN_IF_ERROR(same(hello.exchange(), other.exchange(), "exchange"));
  RETURN_IF_ERROR(same(hello.kv_block_tokens(), other.kv_block_tokens(), "kv_block_tokens"));
  RETURN_IF_ERROR(same(hello.expert_count(), other.expert_count(), "expert_count"));
  RETURN_IF_ERROR(same(hello.moe_layers(), other.moe_layers(), "moe_layers"));
  RETURN_IF_ERROR(same(hello.vocab_size(), other.vocab_size(), "vocab_size"));
  return same(hello.context_tokens_max(), other.context_tokens_max(), "context_tokens_max");
}

absl::Status CheckLogprob(const v1::TokenLogprob& logprob, uint32_t vocab_size) {
  if (!IsToken(logprob.token(), vocab_size)) {
    return InvalidArgument(absl::StrCat("token ", logprob.token(), " does not exist"));
  }
  if (std::isnan(logprob.logprob())) return InvalidArgument("a log probability is not a number");
  if (static_cast<uint32_t>(logprob.top_size()) > kTopLogprobsMax) {
    return InvalidArgument(absl::StrCat("a token has ", logprob.top_size(), " alternatives"));
  }
  for (const v1::TokenAlternative& alternative : logprob.top()) {
    if (!IsToken(alternative.token(), vocab_size) || std::isnan(alternative.logprob())) {
      return InvalidArgument("an alternative is not a token with a log probability");
    }
  }
  return absl::OkStatus();
}

}  // namespace braid
