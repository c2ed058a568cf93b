#include "model/config.h"

#include <cmath>

#include "base/status.h"

namespace braid {
namespace {

// Beyond these a file is broken or hostile: the largest open models stay below a quarter of each. They also keep every
// product of two dimensions far from overflow.
constexpr int kModelDimMax = 1 << 16;
constexpr int kVocabMax = 1 << 22;
constexpr int kLayersMax = 1024;
constexpr int kHeadsMax = 1024;
constexpr int kHeadDimMax = 1024;
constexpr int kFfnDimMax = 1 << 20;
constexpr int kExpertsMax = 4096;
constexpr int kExpertsPerTokenMax = 64;
constexpr int kConvTapsMax = 8;  // the conv state keeps 16 columns, some of them for rolling back
constexpr int kContextMax = 1 << 28;

absl::Status InRange(const char* field, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidArgument(std::string(field) + " is " + std::to_string(value) + ", must be in [" + std::to_string(min) +
                         ", " + std::to_string(max) + "]");
}

absl::Status Positive(const char* field, float value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return InvalidArgument(std::string(field) + " is " + std::to_string(value) + ", must be finite and above zero");
}

absl::Status ValidateAttention(const ModelConfig& config) {
  RETURN_IF_ERROR(InRange("heads", config.heads, 1, kHeadsMax));
  RETURN_IF_ERROR(InRange("kv_heads", config.kv_heads, 1, config.heads));
  RETURN_IF_ERROR(InRange("head_dim", config.head_dim, 8, kHeadDimMax));
  if (config.heads % config.kv_heads != 0)
    return InvalidArgument("heads (" + std::to_string(config.heads) + ") is not a multiple of kv_heads (" +
                           std::to_string(config.kv_heads) + ")");
  if (config.head_dim % 8 != 0)  // what the attention kernels take
    return InvalidArgument("head_dim is " + std::to_string(config.head_dim) + ", must be a multiple of 8");
  if (config.attention_layer_count() == 0) return InvalidArgument("layers: none of them is an attention layer");
  RETURN_IF_ERROR(Positive("rope_theta", config.rope_theta));
  return Positive("norm_eps", config.norm_eps);
}

absl::Status ValidateFeedForward(const ModelConfig& config) {
  RETURN_IF_ERROR(InRange("experts", config.experts, 0, kExpertsMax));
  RETURN_IF_ERROR(InRange("dense_layers", config.dense_layers, 0, config.layer_count()));
  if (config.dense_layers > 0) RETURN_IF_ERROR(InRange("dense_ffn_dim", config.dense_ffn_dim, 1, kFfnDimMax));
  if (config.experts == 0) {
    if (config.dense_layers == config.layer_count()) return absl::OkStatus();
    return InvalidArgument("experts is 0, but only " + std::to_string(config.dense_layers) + " of " +
                           std::to_string(config.layer_count()) + " layers are dense");
  }
  const int chosen_max = config.experts < kExpertsPerTokenMax ? config.experts : kExpertsPerTokenMax;
  RETURN_IF_ERROR(InRange("experts_per_token", config.experts_per_token, 1, chosen_max));
  RETURN_IF_ERROR(InRange("expert_ffn_dim", config.expert_ffn_dim, 1, kFfnDimMax));
  return Positive("routed_scaling", config.routed_scaling);
}

// What model/checksum_engine.h relies on.
absl::Status ValidateChecksum(const ModelConfig& config) {
  constexpr int kExpertsDrawnMax = 32;       // so that one number below the prime draws any four of them
  constexpr int kExpertsPerTokenSummed = 5;  // (1 + 2 + .. + 5) primes still fit into a float
  RETURN_IF_ERROR(InRange("experts", config.experts, 1, kExpertsDrawnMax));
  RETURN_IF_ERROR(InRange("experts_per_token", config.experts_per_token, 1, kExpertsPerTokenSummed));
  RETURN_IF_ERROR(InRange("dense_layers", config.dense_layers, 0, 0));
  RETURN_IF_ERROR(InRange("context_tokens_max", config.context_tokens_max, 1, ModelConfig::kChecksumPrime - 1));
  RETURN_IF_ERROR(InRange("checksum_tokens", config.checksum_tokens, 1, config.vocab_size));
  if (config.kv_dim() != config.model_dim) return InvalidArgument("model_dim is not the dimension of keys and values");
  if (config.layers.back() != ModelConfig::LayerKind::kAttention)
    return InvalidArgument("layers: the last one of a checksum model must be an attention layer");
  return absl::OkStatus();
}

}  // namespace

int ModelConfig::attention_layer_count() const {
  int count = 0;
  for (const LayerKind kind : layers) count += kind == LayerKind::kAttention;
  return count;
}

absl::Status ModelConfig::Validate() const {
  if (architecture != "lfm2" && architecture != "lfm2moe" && architecture != "checksum")
    return InvalidArgument("architecture is '" + architecture + "', must be lfm2, lfm2moe or checksum");
  if ((architecture != "lfm2") != (experts > 0))
    return InvalidArgument("experts is " + std::to_string(experts) + " in a model of architecture " + architecture);
  if (layers.size() > kLayersMax)
    return InvalidArgument("layers: " + std::to_string(layers.size()) + ", at most " + std::to_string(kLayersMax));
  RETURN_IF_ERROR(InRange("layers", layer_count(), 1, kLayersMax));
  RETURN_IF_ERROR(InRange("model_dim", model_dim, 1, kModelDimMax));
  RETURN_IF_ERROR(InRange("vocab_size", vocab_size, 1, kVocabMax));
  RETURN_IF_ERROR(InRange("conv_taps", conv_taps, 2, kConvTapsMax));
  RETURN_IF_ERROR(InRange("context_tokens_max", context_tokens_max, 1, kContextMax));
  RETURN_IF_ERROR(ValidateAttention(*this));
  RETURN_IF_ERROR(ValidateFeedForward(*this));
  return architecture == "checksum" ? ValidateChecksum(*this) : absl::OkStatus();
}

}  // namespace braid
