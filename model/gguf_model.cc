#include "model/gguf_model.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/mapped_file.h"
#include "base/status.h"
#include "model/gguf_file.h"
#include "model/gguf_tokenizer.h"
#include "model/model_digest.h"
#include "model/tensor_binder.h"

namespace braid {
namespace {

constexpr int64_t kIntMax = std::numeric_limits<int>::max();
constexpr uint64_t kLayersMax = 1024;
constexpr size_t kChatTemplateBytesMax = 1 << 20;
constexpr int64_t kGatingSigmoid = 2;

// Reads the keys of one architecture, "lfm2moe.block_count" and so on.
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture) : file_(file), prefix_(std::move(architecture) + ".") {}

  absl::StatusOr<int> Required(const char* name) const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> value, file_.Integer(prefix_ + name, 0, kIntMax));
    if (!value) return InvalidArgument("key '" + prefix_ + name + "' is missing");
    return static_cast<int>(*value);
  }
  absl::StatusOr<int> Optional(const char* name, int otherwise) const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> value, file_.Integer(prefix_ + name, 0, kIntMax));
    return static_cast<int>(value.value_or(otherwise));
  }
  absl::StatusOr<float> RequiredNumber(const char* name) const {
    ASSIGN_OR_RETURN(const std::optional<double> value, file_.Number(prefix_ + name));
    if (!value) return InvalidArgument("key '" + prefix_ + name + "' is missing");
    return static_cast<float>(*value);
  }
  absl::StatusOr<std::vector<int64_t>> RequiredIntegers(const char* name) const {
    ASSIGN_OR_RETURN(std::optional<std::vector<int64_t>> values, file_.Integers(prefix_ + name, kLayersMax));
    if (!values) return InvalidArgument("key '" + prefix_ + name + "' is missing");
    return *std::move(values);
  }
  // A key that changes the arithmetic in a way we do not offer must be absent or `only`.
  absl::Status Only(const char* name, int64_t only) const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> value, file_.Integer(prefix_ + name, 0, kIntMax));
    if (!value || *value == only) return absl::OkStatus();
    return InvalidArgument("key '" + prefix_ + name + "' is " + std::to_string(*value) + ", only " +
                           std::to_string(only) + " is supported");
  }

  const GgufFile& file() const { return file_; }
  std::string Name(const char* name) const { return prefix_ + name; }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

// An attention layer is one with key-value heads; there is no other sign.
absl::Status ReadLayers(const Keys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(const int count, keys.Required("block_count"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, keys.RequiredIntegers("attention.head_count_kv"));
  if (kv_heads.size() != static_cast<size_t>(count))
    return InvalidArgument("key '" + keys.Name("attention.head_count_kv") + "' has " + std::to_string(kv_heads.size()) +
                           " entries for " + std::to_string(count) + " layers");
  for (const int64_t heads : kv_heads) {
    if (heads < 0 || heads > kIntMax || (heads > 0 && config->kv_heads > 0 && heads != config->kv_heads))
      return InvalidArgument("key '" + keys.Name("attention.head_count_kv") + "' has the entry " +
                             std::to_string(heads) +
                             "; all attention layers must have the same number of key-value heads");
    if (heads > 0) config->kv_heads = static_cast<int>(heads);
    config->layers.push_back(heads > 0 ? ModelConfig::LayerKind::kAttention : ModelConfig::LayerKind::kConv);
  }
  return absl::OkStatus();
}

absl::Status ReadAttention(const Keys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->heads, keys.Required("attention.head_count"));
  const int head_dim = config->heads > 0 ? config->model_dim / config->heads : 0;
  ASSIGN_OR_RETURN(config->head_dim, keys.Optional("attention.key_length", head_dim));
  RETURN_IF_ERROR(keys.Only("attention.value_length", config->head_dim));
  RETURN_IF_ERROR(keys.Only("rope.dimension_count", config->head_dim));
  ASSIGN_OR_RETURN(config->rope_theta, keys.RequiredNumber("rope.freq_base"));
  ASSIGN_OR_RETURN(const std::optional<std::string_view> scaling, keys.file().String(keys.Name("rope.scaling.type")));
  if (scaling && *scaling != "none")
    return InvalidArgument("key '" + keys.Name("rope.scaling.type") + "' is '" + std::string(*scaling) +
                           "', only none is supported");
  return absl::OkStatus();
}

absl::Status ReadExperts(const Keys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->experts, keys.Required("expert_count"));
  ASSIGN_OR_RETURN(config->experts_per_token, keys.Required("expert_used_count"));
  ASSIGN_OR_RETURN(config->expert_ffn_dim, keys.Required("expert_feed_forward_length"));
  ASSIGN_OR_RETURN(config->dense_layers, keys.Optional("leading_dense_block_count", 0));
  RETURN_IF_ERROR(keys.Only("expert_gating_func", kGatingSigmoid));
  RETURN_IF_ERROR(keys.Only("expert_shared_count", 0));
  ASSIGN_OR_RETURN(const std::optional<bool> normalize, keys.file().Bool(keys.Name("expert_weights_norm")));
  config->normalize_topk = normalize.value_or(true);
  ASSIGN_OR_RETURN(const std::optional<double> scale, keys.file().Number(keys.Name("expert_weights_scale")));
  config->routed_scaling = scale && *scale != 0 ? static_cast<float>(*scale) : 1.0f;  // some writers leave 0
  const std::string bias = "blk." + std::to_string(config->dense_layers) + ".exp_probs_b.bias";
  config->use_expert_bias = std::any_of(keys.file().tensors().begin(), keys.file().tensors().end(),
                                        [&](const StoredTensor& tensor) { return tensor.name == bias; });
  return absl::OkStatus();
}

absl::StatusOr<int> ReadVocabSize(const Keys& keys) {
  for (const StoredTensor& tensor : keys.file().tensors()) {
    if (tensor.name != "token_embd.weight" || tensor.shape.size() != 2) continue;
    const int64_t rows = std::min<int64_t>(tensor.shape[0], kIntMax);
    RETURN_IF_ERROR(keys.Only("vocab_size", rows));
    return static_cast<int>(rows);
  }
  return InvalidArgument("tensor 'token_embd.weight' is missing or has no rows");
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file, const std::string& path) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> parts, file.Integer("split.count", 0, kIntMax));
  if (parts.value_or(1) > 1)
    return InvalidArgument("is one of " + std::to_string(*parts) + " parts; merge them with llama-gguf-split --merge");
  ASSIGN_OR_RETURN(const std::optional<std::string_view> architecture, file.String("general.architecture"));
  if (!architecture) return InvalidArgument("key 'general.architecture' is missing");
  if (*architecture != "lfm2" && *architecture != "lfm2moe")
    return InvalidArgument("key 'general.architecture' is '" + std::string(*architecture) +
                           "'; lfm2 and lfm2moe are supported");
  ModelConfig config;
  config.architecture = *architecture;
  const Keys keys(file, config.architecture);
  ASSIGN_OR_RETURN(const std::optional<std::string_view> name, file.String("general.name"));
  config.name = name ? std::string(*name) : std::filesystem::path(path).stem().string();
  ASSIGN_OR_RETURN(config.model_dim, keys.Required("embedding_length"));
  ASSIGN_OR_RETURN(config.vocab_size, ReadVocabSize(keys));
  RETURN_IF_ERROR(ReadLayers(keys, &config));
  RETURN_IF_ERROR(ReadAttention(keys, &config));
  ASSIGN_OR_RETURN(config.norm_eps, keys.RequiredNumber("attention.layer_norm_rms_epsilon"));
  ASSIGN_OR_RETURN(config.conv_taps, keys.Required("shortconv.l_cache"));
  ASSIGN_OR_RETURN(config.dense_ffn_dim, keys.Required("feed_forward_length"));
  ASSIGN_OR_RETURN(config.context_tokens_max, keys.Required("context_length"));
  config.dense_layers = config.layer_count();
  if (config.architecture == "lfm2moe") {
    RETURN_IF_ERROR(ReadExperts(keys, &config));
  } else {
    RETURN_IF_ERROR(keys.Only("attention.sliding_window", 0));
  }
  RETURN_IF_ERROR(config.Validate());
  return config;
}

class GgufModel : public ModelFile {
 public:
  absl::Status Read(std::unique_ptr<MappedFile> file, DigestCheck check) {
    map_ = std::move(file);
    path_ = map_->path();
    ASSIGN_OR_RETURN(const GgufFile gguf, GgufFile::Parse(map_->bytes()));
    ASSIGN_OR_RETURN(config_, ReadConfig(gguf, path_));
    ASSIGN_OR_RETURN(tensors_, BindTensors(config_, kGgufNames, gguf.tensors()));
    for (const StoredTensor& tensor : gguf.tensors()) weight_bytes_ += tensor.data.size();
    tokenizer_ = ReadGgufTokenizer(gguf, config_.vocab_size);
    ASSIGN_OR_RETURN(const std::optional<std::string_view> chat, gguf.String("tokenizer.chat_template"));
    if (chat && chat->size() > kChatTemplateBytesMax)
      return InvalidArgument("key 'tokenizer.chat_template' has " + std::to_string(chat->size()) + " bytes");
    if (chat) chat_template_ = std::string(*chat);
    digest_ = ModelDigest(config_, tensors_, tokenizer_.ok() ? &*tokenizer_ : nullptr, chat_template_);
    return check == DigestCheck::kSealed ? CheckSeal(gguf) : absl::OkStatus();
  }

 private:
  absl::Status CheckSeal(const GgufFile& gguf) const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> version, gguf.Integer(kLayoutVersionKey, 1, kLayoutVersion));
    if (!version) return absl::OkStatus();  // not packed
    ASSIGN_OR_RETURN(const std::optional<std::string_view> sealed, gguf.String(kDigestKey));
    if (sealed == digest_) return absl::OkStatus();
    return InvalidArgument("is not what was packed: its digest is " + digest_ + ", key '" + std::string(kDigestKey) +
                           "' says " + std::string(sealed.value_or("nothing")) +
                           "; copy it again, or pack the model again: braid convert SRC DST --format packed");
  }

  std::unique_ptr<MappedFile> map_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFile>> OpenGgufModel(const std::string& path, DigestCheck check) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  auto model = std::make_unique<GgufModel>();
  const absl::Status status = model->Read(std::move(file), check);
  if (!status.ok()) return Annotate(status, path);
  return model;
}

}  // namespace braid
