#include "model/hf_config.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/status.h"
#include "model/json_reader.h"

namespace braid {
namespace {

using nlohmann::json;

constexpr int64_t kIntMax = std::numeric_limits<int>::max();
constexpr size_t kLayersMax = 1024;
constexpr double kRopeThetaDefault = 1e6;  // transformers' default_theta of both classes

absl::StatusOr<int> Required(const json& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, JsonInteger(config, key, 0, kIntMax));
  if (!value) return InvalidArgument("'" + std::string(key) + "' is missing");
  return static_cast<int>(*value);
}

absl::StatusOr<int> Optional(const json& config, const char* key, int otherwise) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, JsonInteger(config, key, 0, kIntMax));
  return static_cast<int>(value.value_or(otherwise));
}

// The value under the first of two spellings that is present.
absl::StatusOr<int> RequiredEither(const json& config, const char* key, const char* other_key) {
  return Required(config, JsonMember(config, key) != nullptr ? key : other_key);
}

absl::Status RequireFalse(const json& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<bool> value, JsonBool(config, key));
  return value.value_or(false) ? InvalidArgument("'" + std::string(key) + "' is not supported") : absl::OkStatus();
}

absl::Status ReadLayerTypes(const json& types, ModelConfig* config) {
  if (!types.is_array() || types.size() > kLayersMax) return InvalidArgument("'layer_types' is not a list of layers");
  for (const json& type : types) {
    if (type == "conv") {
      config->layers.push_back(ModelConfig::LayerKind::kConv);
    } else if (type == "full_attention") {
      config->layers.push_back(ModelConfig::LayerKind::kAttention);
    } else {
      return InvalidArgument("'layer_types' has an entry that is neither conv nor full_attention");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadAttentionIndices(const json& indices, size_t layers, ModelConfig* config) {
  if (!indices.is_array()) return InvalidArgument("'full_attn_idxs' is not a list of layer numbers");
  config->layers.assign(layers, ModelConfig::LayerKind::kConv);
  for (const json& index : indices) {
    if (!index.is_number_unsigned() || index.get<uint64_t>() >= layers)
      return InvalidArgument("'full_attn_idxs' has an entry that is no layer number");
    config->layers[index.get<uint64_t>()] = ModelConfig::LayerKind::kAttention;
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const json& json_config, ModelConfig* config) {
  ASSIGN_OR_RETURN(const int count, Required(json_config, "num_hidden_layers"));
  if (static_cast<size_t>(count) > kLayersMax)
    return InvalidArgument("'num_hidden_layers' is " + std::to_string(count));
  if (const json* types = JsonMember(json_config, "layer_types")) {
    RETURN_IF_ERROR(ReadLayerTypes(*types, config));
    if (config->layer_count() == count) return absl::OkStatus();
    return InvalidArgument("'layer_types' has " + std::to_string(config->layer_count()) +
                           " entries, 'num_hidden_layers' is " + std::to_string(count));
  }
  if (const json* indices = JsonMember(json_config, "full_attn_idxs"))
    return ReadAttentionIndices(*indices, static_cast<size_t>(count), config);
  return InvalidArgument("neither 'layer_types' nor 'full_attn_idxs' is given");
}

absl::Status ReadRope(const json& json_config, ModelConfig* config) {
  ASSIGN_OR_RETURN(std::optional<double> theta, JsonNumber(json_config, "rope_theta"));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    ASSIGN_OR_RETURN(const json* parameters, JsonObject(json_config, key));
    if (parameters == nullptr) continue;
    for (const char* type_key : {"rope_type", "type"}) {
      ASSIGN_OR_RETURN(const std::optional<std::string> type, JsonString(*parameters, type_key));
      if (type && *type != "default")
        return InvalidArgument("'" + std::string(key) + "' has the type '" + *type + "', only default is supported");
    }
    ASSIGN_OR_RETURN(const std::optional<double> inner, JsonNumber(*parameters, "rope_theta"));
    if (inner) theta = inner;
  }
  config->rope_theta = static_cast<float>(theta.value_or(kRopeThetaDefault));
  return absl::OkStatus();
}

absl::Status ReadAttention(const json& json_config, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->heads, Required(json_config, "num_attention_heads"));
  ASSIGN_OR_RETURN(config->kv_heads, Optional(json_config, "num_key_value_heads", config->heads));
  const int head_dim = config->heads > 0 ? config->model_dim / config->heads : 0;
  ASSIGN_OR_RETURN(config->head_dim, Optional(json_config, "head_dim", head_dim));
  return ReadRope(json_config, config);
}

absl::Status ReadDenseFeedForward(const json& json_config, ModelConfig* config) {
  config->dense_layers = config->layer_count();
  ASSIGN_OR_RETURN(config->dense_ffn_dim, RequiredEither(json_config, "block_ff_dim", "intermediate_size"));
  ASSIGN_OR_RETURN(const std::optional<bool> adjust, JsonBool(json_config, "block_auto_adjust_ff_dim"));
  if (!adjust.value_or(true)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int multiple_of, Optional(json_config, "block_multiple_of", 256));
  ASSIGN_OR_RETURN(const std::optional<double> multiplier, JsonNumber(json_config, "block_ffn_dim_multiplier"));
  if (multiple_of < 1 || multiple_of > 1 << 20)
    return InvalidArgument("'block_multiple_of' is " + std::to_string(multiple_of));
  if (config->dense_ffn_dim > 1 << 24 || (multiplier && !(*multiplier > 0 && *multiplier <= 64)))
    return InvalidArgument("'block_ffn_dim_multiplier' or the feed-forward dimension is absurd");
  config->dense_ffn_dim = AdjustedFfnDim(config->dense_ffn_dim, multiplier, multiple_of);
  return absl::OkStatus();
}

absl::Status ReadExperts(const json& json_config, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->dense_ffn_dim, Required(json_config, "intermediate_size"));
  ASSIGN_OR_RETURN(config->dense_layers, Required(json_config, "num_dense_layers"));
  ASSIGN_OR_RETURN(config->experts, RequiredEither(json_config, "num_experts", "num_local_experts"));
  ASSIGN_OR_RETURN(config->experts_per_token, Required(json_config, "num_experts_per_tok"));
  ASSIGN_OR_RETURN(config->expert_ffn_dim, Required(json_config, "moe_intermediate_size"));
  ASSIGN_OR_RETURN(const std::optional<bool> normalize, JsonBool(json_config, "norm_topk_prob"));
  ASSIGN_OR_RETURN(const std::optional<bool> bias, JsonBool(json_config, "use_expert_bias"));
  ASSIGN_OR_RETURN(const std::optional<double> scaling, JsonNumber(json_config, "routed_scaling_factor"));
  config->normalize_topk = normalize.value_or(true);
  config->use_expert_bias = bias.value_or(true);
  config->routed_scaling = static_cast<float>(scaling.value_or(1.0));
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int64_t>> FirstId(const json& config, const char* key) {
  const json* member = JsonMember(config, key);
  if (member == nullptr) return std::nullopt;
  const json& first = member->is_array() && !member->empty() ? (*member)[0] : *member;
  if (!first.is_number_unsigned() || first.get<uint64_t>() > static_cast<uint64_t>(kIntMax))
    return InvalidArgument("'" + std::string(key) + "' is no token id");
  return first.get<int64_t>();
}

absl::StatusOr<ModelConfig> ReadChecksumConfig(const json& json_config, const std::string& name) {
  ModelConfig config;
  config.name = name;
  config.architecture = "checksum";
  ASSIGN_OR_RETURN(config.model_dim, Required(json_config, "hidden_size"));
  ASSIGN_OR_RETURN(config.vocab_size, Required(json_config, "vocab_size"));
  RETURN_IF_ERROR(ReadLayers(json_config, &config));
  ASSIGN_OR_RETURN(config.experts, Required(json_config, "num_experts"));
  ASSIGN_OR_RETURN(config.experts_per_token, Required(json_config, "num_experts_per_tok"));
  ASSIGN_OR_RETURN(config.conv_taps, Required(json_config, "conv_L_cache"));
  ASSIGN_OR_RETURN(config.context_tokens_max, Required(json_config, "max_position_embeddings"));
  ASSIGN_OR_RETURN(config.checksum_tokens, Required(json_config, "checksum_tokens"));
  config.heads = config.kv_heads = 1;
  config.head_dim = config.expert_ffn_dim = config.model_dim;
  RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace

int AdjustedFfnDim(int ffn_dim, std::optional<double> multiplier, int multiple_of) {
  int64_t adjusted = static_cast<int64_t>(2.0 * ffn_dim / 3.0);
  if (multiplier) adjusted = static_cast<int64_t>(*multiplier * static_cast<double>(adjusted));
  return static_cast<int>(std::min((adjusted + multiple_of - 1) / multiple_of * multiple_of, kIntMax));
}

absl::StatusOr<ModelConfig> ReadHfConfig(const json& json_config, const std::string& name) {
  if (!json_config.is_object()) return InvalidArgument("is not an object");
  ASSIGN_OR_RETURN(const std::optional<std::string> type, JsonString(json_config, "model_type"));
  if (type == "braid_checksum") return ReadChecksumConfig(json_config, name);
  if (!type || (*type != "lfm2" && *type != "lfm2_moe"))
    return InvalidArgument("'model_type' is " + (type ? "'" + *type + "'" : "missing") +
                           "; lfm2 and lfm2_moe are supported");
  for (const char* key : {"conv_bias", "attention_bias", "mlp_bias"}) RETURN_IF_ERROR(RequireFalse(json_config, key));
  if (JsonMember(json_config, "quantization_config") != nullptr)
    return InvalidArgument("'quantization_config': quantised safetensors are not supported, use GGUF");
  ModelConfig config;
  config.name = name;
  config.architecture = *type == "lfm2" ? "lfm2" : "lfm2moe";
  ASSIGN_OR_RETURN(config.model_dim, Required(json_config, "hidden_size"));
  ASSIGN_OR_RETURN(config.vocab_size, Required(json_config, "vocab_size"));
  RETURN_IF_ERROR(ReadLayers(json_config, &config));
  RETURN_IF_ERROR(ReadAttention(json_config, &config));
  const char* eps_key = JsonMember(json_config, "norm_eps") != nullptr ? "norm_eps" : "block_norm_eps";
  ASSIGN_OR_RETURN(const std::optional<double> eps, JsonNumber(json_config, eps_key));
  config.norm_eps = static_cast<float>(eps.value_or(1e-5));
  ASSIGN_OR_RETURN(config.conv_taps, Optional(json_config, "conv_L_cache", 3));
  ASSIGN_OR_RETURN(config.context_tokens_max, Optional(json_config, "max_position_embeddings", 128000));
  RETURN_IF_ERROR(*type == "lfm2" ? ReadDenseFeedForward(json_config, &config) : ReadExperts(json_config, &config));
  RETURN_IF_ERROR(config.Validate());
  return config;
}

absl::StatusOr<HfSpecialIds> ReadHfSpecialIds(const json& config) {
  HfSpecialIds ids;
  ASSIGN_OR_RETURN(ids.bos, FirstId(config, "bos_token_id"));
  ASSIGN_OR_RETURN(ids.eos, FirstId(config, "eos_token_id"));
  ASSIGN_OR_RETURN(ids.pad, FirstId(config, "pad_token_id"));
  return ids;
}

}  // namespace braid
