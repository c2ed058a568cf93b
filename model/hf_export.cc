#include "model/hf_export.h"

#include <cstring>
#include <optional>
#include <utility>

#include "base/status.h"
#include "model/hf_tokenizer.h"
#include "model/utf8.h"

namespace braid {
namespace {

using nlohmann::ordered_json;

void AddIds(const TokenizerSpec& tokenizer, ordered_json* out) {
  const std::pair<const char*, std::optional<TokenId>> ids[] = {
      {"bos_token_id", tokenizer.bos}, {"eos_token_id", tokenizer.eos}, {"pad_token_id", tokenizer.pad}};
  for (const auto& [key, id] : ids) (*out)[key] = id ? ordered_json(*id) : ordered_json();
}

ordered_json AddedTokens(const TokenizerSpec& tokenizer) {
  ordered_json list = ordered_json::array();
  for (const TokenizerSpec::AddedToken& added : tokenizer.added)
    list.push_back({{"id", added.id},
                    {"content", added.text},
                    {"single_word", added.single_word},
                    {"lstrip", added.lstrip},
                    {"rstrip", added.rstrip},
                    {"normalized", added.normalized},
                    {"special", added.special}});
  return list;
}

ordered_json ByteLevel(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

ordered_json PreTokenizerJson(const TokenizerSpec& tokenizer) {
  if (tokenizer.pre_tokenizer == TokenizerSpec::PreTokenizer::kGpt2) return ByteLevel(tokenizer.add_prefix_space, true);
  const ordered_json split = {{"type", "Split"},
                              {"pattern", {{"Regex", HfRegex(tokenizer.pre_tokenizer)}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  return {{"type", "Sequence"},
          {"pretokenizers", ordered_json::array({split, ByteLevel(tokenizer.add_prefix_space, false)})}};
}

// A template that puts BOS before each text.
ordered_json BosTemplate(const std::string& bos, TokenId id) {
  const auto piece = [](const char* kind, const std::string& name, int type) {
    return ordered_json{{kind, {{"id", name}, {"type_id", type}}}};
  };
  const ordered_json single = ordered_json::array({piece("SpecialToken", bos, 0), piece("Sequence", "A", 0)});
  ordered_json pair = single;
  pair.push_back(piece("SpecialToken", bos, 1));
  pair.push_back(piece("Sequence", "B", 1));
  ordered_json special = ordered_json::object();
  special[bos] = {{"id", bos}, {"ids", ordered_json::array({id})}, {"tokens", ordered_json::array({bos})}};
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

// Added tokens are in the vocabulary too: their ids would be assigned anew otherwise.
absl::StatusOr<ordered_json> Vocabulary(const TokenizerSpec& tokenizer) {
  nlohmann::json::object_t sorted;
  for (size_t id = 0; id < tokenizer.tokens.size(); ++id) {
    const std::string& token = tokenizer.tokens[id];
    if (token.empty()) continue;
    if (!IsValidUtf8(token)) return InvalidArgument("tokenizer: token " + std::to_string(id) + " is not UTF-8");
    if (!sorted.emplace(token, id).second) return InvalidArgument("tokenizer: token '" + token + "' has two ids");
  }
  return ordered_json(nlohmann::json(std::move(sorted)));
}

absl::StatusOr<ordered_json> Merges(const TokenizerSpec& tokenizer) {
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : tokenizer.merges) {
    if (!IsValidUtf8(left) || !IsValidUtf8(right)) return InvalidArgument("tokenizer: a merge is not UTF-8");
    merges.push_back(ordered_json::array({left, right}));
  }
  return merges;
}

std::string TokenText(const TokenizerSpec& tokenizer, TokenId id) { return tokenizer.tokens[static_cast<size_t>(id)]; }

void AddDense(const ModelConfig& config, ordered_json* out) {
  (*out)["block_ff_dim"] = config.dense_ffn_dim;
  (*out)["block_auto_adjust_ff_dim"] = false;
  (*out)["block_ffn_dim_multiplier"] = 1.0;
  (*out)["block_multiple_of"] = 256;
}

void AddExperts(const ModelConfig& config, ordered_json* out) {
  (*out)["moe_intermediate_size"] = config.expert_ffn_dim;
  (*out)["num_dense_layers"] = config.dense_layers;
  (*out)["num_experts"] = config.experts;
  (*out)["num_experts_per_tok"] = config.experts_per_token;
  (*out)["norm_topk_prob"] = config.normalize_topk;
  (*out)["use_expert_bias"] = config.use_expert_bias;
  (*out)["routed_scaling_factor"] = config.routed_scaling;
}

}  // namespace

std::string HfDTypeName(DType dtype) {
  if (dtype == DType::kF32) return "float32";
  return dtype == DType::kF16 ? "float16" : "bfloat16";
}

ordered_json HfConfigJson(const ModelConfig& config, const TokenizerSpec& tokenizer, bool tied_head, DType dtype) {
  const bool moe = config.experts > 0;
  ordered_json out;
  out["architectures"] = ordered_json::array({moe ? "Lfm2MoeForCausalLM" : "Lfm2ForCausalLM"});
  out["model_type"] = moe ? "lfm2_moe" : "lfm2";
  out["dtype"] = HfDTypeName(dtype);
  out["vocab_size"] = config.vocab_size;
  out["hidden_size"] = config.model_dim;
  out["intermediate_size"] = config.dense_ffn_dim;
  out["num_hidden_layers"] = config.layer_count();
  ordered_json kinds = ordered_json::array();
  for (const ModelConfig::LayerKind kind : config.layers)
    kinds.push_back(kind == ModelConfig::LayerKind::kAttention ? "full_attention" : "conv");
  out["layer_types"] = kinds;
  out["num_attention_heads"] = config.heads;
  out["num_key_value_heads"] = config.kv_heads;
  if (config.head_dim * config.heads != config.model_dim) out["head_dim"] = config.head_dim;
  out["conv_L_cache"] = config.conv_taps;
  out["conv_bias"] = false;
  out["norm_eps"] = config.norm_eps;
  out["rope_theta"] = config.rope_theta;
  out["rope_parameters"] = {{"rope_theta", config.rope_theta}, {"rope_type", "default"}};
  out["max_position_embeddings"] = config.context_tokens_max;
  out["tie_word_embeddings"] = tied_head;
  moe ? AddExperts(config, &out) : AddDense(config, &out);
  AddIds(tokenizer, &out);
  return out;
}

absl::StatusOr<ordered_json> HfTokenizerJson(const TokenizerSpec& tokenizer) {
  ordered_json model = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", false},
                        {"byte_fallback", false},
                        {"ignore_merges", tokenizer.ignore_merges}};
  ASSIGN_OR_RETURN(model["vocab"], Vocabulary(tokenizer));
  ASSIGN_OR_RETURN(model["merges"], Merges(tokenizer));
  ordered_json out;
  out["version"] = "1.0";
  out["truncation"] = nullptr;
  out["padding"] = nullptr;
  out["added_tokens"] = AddedTokens(tokenizer);
  out["normalizer"] = nullptr;
  out["pre_tokenizer"] = PreTokenizerJson(tokenizer);
  if (tokenizer.add_bos && tokenizer.bos) {
    out["post_processor"] = BosTemplate(TokenText(tokenizer, *tokenizer.bos), *tokenizer.bos);
  } else {
    out["post_processor"] = nullptr;
  }
  out["decoder"] = ByteLevel(true, true);
  out["model"] = std::move(model);
  return out;
}

ordered_json HfTokenizerConfigJson(const ModelConfig& config, const TokenizerSpec& tokenizer) {
  ordered_json out;
  out["tokenizer_class"] = "PreTrainedTokenizerFast";
  const std::pair<const char*, std::optional<TokenId>> tokens[] = {
      {"bos_token", tokenizer.bos}, {"eos_token", tokenizer.eos}, {"pad_token", tokenizer.pad}};
  for (const auto& [key, id] : tokens)
    if (id) out[key] = TokenText(tokenizer, *id);
  out["clean_up_tokenization_spaces"] = false;
  out["model_max_length"] = config.context_tokens_max;
  return out;
}

ordered_json HfGenerationConfigJson(const TokenizerSpec& tokenizer) {
  ordered_json out;
  AddIds(tokenizer, &out);
  return out;
}

std::string EncodeSafetensorsHeader(const ConversionPlan& plan) {
  ordered_json entries;
  entries["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const PlannedTensor& tensor : plan.tensors) {
    const uint64_t end = offset + tensor.bytes();
    entries[tensor.name] = {
        {"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", ordered_json::array({offset, end})}};
    offset = end;
  }
  std::string text = entries.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins aligned
  const uint64_t length = text.size();
  std::string header(sizeof length, '\0');
  std::memcpy(header.data(), &length, sizeof length);
  return header + text;
}

}  // namespace braid
