#include "model/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <type_traits>
#include <utility>

#include "base/status.h"

namespace braid {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is written by memcpy");

template <typename T>
requires std::is_arithmetic_v<T> || std::is_enum_v<T>
void Append(T value, std::string* out) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  out->append(raw, sizeof(T));
}

void AppendString(std::string_view text, std::string* out) {
  Append(static_cast<uint64_t>(text.size()), out);
  out->append(text);
}

// llama.cpp's llama_ftype, which it only prints.
uint32_t FileType(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 7;
    case DType::kQ4_K:
      return 15;
    case DType::kQ5_K:
      return 17;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
  }
  return 0;
}

DType MainType(const ConversionPlan& plan) {
  std::map<DType, uint64_t> bytes;
  for (const PlannedTensor& tensor : plan.tensors) bytes[tensor.dtype] += tensor.bytes();
  return std::max_element(bytes.begin(), bytes.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
}

// The name under which llama.cpp treats text alike; it ties ignore_merges to the name.
absl::StatusOr<std::string_view> PreTokenizerName(const TokenizerSpec& spec) {
  switch (spec.pre_tokenizer) {
    case TokenizerSpec::PreTokenizer::kLlama3:
    case TokenizerSpec::PreTokenizer::kLfm2:
      if (!spec.ignore_merges) return "smaug-bpe";
      return spec.pre_tokenizer == TokenizerSpec::PreTokenizer::kLfm2 ? "lfm2" : "llama-bpe";
    case TokenizerSpec::PreTokenizer::kGpt2:
      if (!spec.ignore_merges) return "gpt-2";
      break;
    case TokenizerSpec::PreTokenizer::kQwen2:
      if (!spec.ignore_merges) return "qwen2";
      break;
  }
  return InvalidArgument("tokenizer: GGUF has no name for this pre-tokenizer with ignore_merges");
}

void AddConfig(const ModelConfig& config, GgufMetadata* out) {
  const std::string arch = config.architecture + ".";
  const auto add = [&](const char* key, int value) { out->Add(arch + key, static_cast<uint32_t>(value)); };
  add("block_count", config.layer_count());
  add("context_length", config.context_tokens_max);
  add("embedding_length", config.model_dim);
  add("feed_forward_length", config.dense_layers > 0 ? config.dense_ffn_dim : config.expert_ffn_dim);
  add("vocab_size", config.vocab_size);
  add("attention.head_count", config.heads);
  std::vector<int32_t> kv_heads;
  for (const ModelConfig::LayerKind kind : config.layers)
    kv_heads.push_back(kind == ModelConfig::LayerKind::kAttention ? config.kv_heads : 0);
  out->Add(arch + "attention.head_count_kv", kv_heads);
  add("attention.key_length", config.head_dim);
  add("attention.value_length", config.head_dim);
  out->Add(arch + "attention.layer_norm_rms_epsilon", config.norm_eps);
  add("rope.dimension_count", config.head_dim);
  out->Add(arch + "rope.freq_base", config.rope_theta);
  add("shortconv.l_cache", config.conv_taps);
  if (config.experts == 0) return;
  add("expert_count", config.experts);
  add("expert_used_count", config.experts_per_token);
  add("expert_feed_forward_length", config.expert_ffn_dim);
  add("leading_dense_block_count", config.dense_layers);
  add("expert_gating_func", 2);  // sigmoid
  if (!config.normalize_topk) out->Add(arch + "expert_weights_norm", false);
  if (config.routed_scaling != 1.0f) out->Add(arch + "expert_weights_scale", config.routed_scaling);
}

// Rows of the embedding without a token get a placeholder: llama.cpp wants as many tokens as rows.
absl::Status AddTokens(const TokenizerSpec& spec, int vocab_size, GgufMetadata* out) {
  std::vector<std::string> tokens = spec.tokens;
  tokens.resize(static_cast<size_t>(vocab_size));
  std::vector<int32_t> types(tokens.size(), static_cast<int32_t>(GgufTokenType::kNormal));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].empty()) continue;
    tokens[i] = "[PAD" + std::to_string(i) + "]";
    types[i] = static_cast<int32_t>(GgufTokenType::kUnused);
  }
  for (const TokenizerSpec::AddedToken& added : spec.added) {
    if (added.lstrip || added.rstrip || added.single_word)
      return InvalidArgument("tokenizer: token '" + added.text + "' strips its surroundings, which GGUF cannot say");
    types[static_cast<size_t>(added.id)] =
        static_cast<int32_t>(added.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  }
  out->Add("tokenizer.ggml.tokens", tokens);
  out->Add("tokenizer.ggml.token_type", types);
  return absl::OkStatus();
}

absl::Status AddTokenizer(const TokenizerSpec& spec, int vocab_size, GgufMetadata* out) {
  ASSIGN_OR_RETURN(const std::string_view pre, PreTokenizerName(spec));
  out->Add("tokenizer.ggml.model", std::string_view("gpt2"));
  out->Add("tokenizer.ggml.pre", pre);
  RETURN_IF_ERROR(AddTokens(spec, vocab_size, out));
  std::vector<std::string> merges;
  merges.reserve(spec.merges.size());
  for (const auto& [left, right] : spec.merges) {
    if (left.find(' ') != std::string::npos)
      return InvalidArgument("tokenizer: a merge has a space, which GGUF cannot say");
    merges.push_back(left + " " + right);
  }
  out->Add("tokenizer.ggml.merges", merges);
  const std::pair<const char*, std::optional<TokenId>> ids[] = {{"tokenizer.ggml.bos_token_id", spec.bos},
                                                                {"tokenizer.ggml.eos_token_id", spec.eos},
                                                                {"tokenizer.ggml.padding_token_id", spec.pad}};
  for (const auto& [key, id] : ids)
    if (id) out->Add(key, static_cast<uint32_t>(*id));
  out->Add("tokenizer.ggml.add_bos_token", spec.add_bos);
  out->Add("tokenizer.ggml.add_eos_token", false);
  out->Add("tokenizer.ggml.add_sep_token", false);
  if (spec.add_prefix_space) out->Add("tokenizer.ggml.add_space_prefix", true);
  return absl::OkStatus();
}

void PadTo(uint64_t alignment, std::string* out) { out->resize((out->size() + alignment - 1) / alignment * alignment); }

}  // namespace

void GgufMetadata::AddKey(std::string_view key, GgufType type) {
  AppendString(key, &bytes_);
  Append(type, &bytes_);
  ++count_;
}

void GgufMetadata::AddArray(std::string_view key, GgufType type, uint64_t count) {
  AddKey(key, GgufType::kArray);
  Append(type, &bytes_);
  Append(count, &bytes_);
}

void GgufMetadata::Add(std::string_view key, uint32_t value) {
  AddKey(key, GgufType::kUint32);
  Append(value, &bytes_);
}

void GgufMetadata::Add(std::string_view key, float value) {
  AddKey(key, GgufType::kFloat32);
  Append(value, &bytes_);
}

void GgufMetadata::Add(std::string_view key, bool value) {
  AddKey(key, GgufType::kBool);
  Append(static_cast<uint8_t>(value), &bytes_);
}

void GgufMetadata::Add(std::string_view key, std::string_view value) {
  AddKey(key, GgufType::kString);
  AppendString(value, &bytes_);
}

void GgufMetadata::Add(std::string_view key, const std::vector<std::string>& values) {
  AddArray(key, GgufType::kString, values.size());
  for (const std::string& value : values) AppendString(value, &bytes_);
}

void GgufMetadata::Add(std::string_view key, const std::vector<int32_t>& values) {
  AddArray(key, GgufType::kInt32, values.size());
  for (const int32_t value : values) Append(value, &bytes_);
}

absl::StatusOr<GgufMetadata> DescribeForGguf(const ModelFile& model, const ConversionPlan& plan) {
  if (!model.tokenizer().ok()) return Annotate(model.tokenizer().status(), "the tokenizer cannot be converted");
  GgufMetadata metadata;
  metadata.Add("general.architecture", std::string_view(model.config().architecture));
  metadata.Add("general.name", std::string_view(model.config().name));
  metadata.Add("general.file_type", FileType(MainType(plan)));
  metadata.Add("general.quantization_version", uint32_t{2});
  AddConfig(model.config(), &metadata);
  RETURN_IF_ERROR(AddTokenizer(*model.tokenizer(), model.config().vocab_size, &metadata));
  if (model.chat_template()) metadata.Add("tokenizer.chat_template", std::string_view(*model.chat_template()));
  return metadata;
}

void AddPackedKeys(const ConversionPlan& plan, GgufMetadata* metadata) {
  metadata->Add("general.alignment", static_cast<uint32_t>(kPackedAlignment));
  metadata->Add(kLayoutVersionKey, kLayoutVersion);
  const std::string nothing(kHashDigits, '0');
  metadata->Add(kDigestKey, std::string_view(nothing));
  metadata->Add(kTensorHashesKey, std::vector<std::string>(plan.tensors.size(), nothing));
}

std::string EncodeGgufHeader(const GgufMetadata& metadata, const ConversionPlan& plan, uint64_t alignment) {
  std::string header;
  Append(kGgufMagic, &header);
  Append(kGgufVersion, &header);
  Append(static_cast<uint64_t>(plan.tensors.size()), &header);
  Append(metadata.count(), &header);
  header += metadata.bytes();
  uint64_t offset = 0;
  for (const PlannedTensor& tensor : plan.tensors) {
    AppendString(tensor.name, &header);
    Append(static_cast<uint32_t>(tensor.shape.size()), &header);
    for (size_t i = tensor.shape.size(); i-- > 0;) Append(static_cast<uint64_t>(tensor.shape[i]), &header);
    Append(GgmlTypeNumber(tensor.dtype, tensor.layout), &header);
    Append(offset, &header);
    offset += (tensor.bytes() + alignment - 1) / alignment * alignment;
  }
  PadTo(alignment, &header);
  return header;
}

}  // namespace braid
