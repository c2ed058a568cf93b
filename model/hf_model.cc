#include "model/hf_model.h"

#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "base/mapped_file.h"
#include "base/status.h"
#include "model/hf_config.h"
#include "model/hf_tokenizer.h"
#include "model/json_reader.h"
#include "model/model_digest.h"
#include "model/safetensors_file.h"
#include "model/tensor_binder.h"

namespace braid {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kConfigBytesMax = 1 << 20;
constexpr size_t kIndexBytesMax = 64 << 20;
constexpr size_t kTokenizerBytesMax = 256 << 20;
constexpr size_t kChatTemplateBytesMax = 1 << 20;
constexpr size_t kShardsMax = 4096;

absl::StatusOr<std::string> ReadText(const fs::path& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path.string()));
  const std::span<const std::byte> bytes = file->bytes();
  if (bytes.size() > bytes_max)
    return InvalidArgument(path.string() + " has " + std::to_string(bytes.size()) + " bytes, at most " +
                           std::to_string(bytes_max) + " make sense");
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<json> ReadJsonObject(const fs::path& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path, bytes_max));
  absl::StatusOr<json> document = ParseJson(text);
  if (!document.ok()) return Annotate(document.status(), path.string());
  if (!document->is_object()) return InvalidArgument(path.string() + " is not a JSON object");
  return document;
}

// An empty object if there is no such file.
absl::StatusOr<json> ReadOptionalJsonObject(const fs::path& path, size_t bytes_max) {
  absl::StatusOr<json> document = ReadJsonObject(path, bytes_max);
  if (absl::IsNotFound(document.status())) return json::object();
  return document;
}

// A shard must be a plain file name: an index from elsewhere must not make us map ../../etc/passwd.
absl::Status CheckShardName(const std::string& name) {
  const bool plain =
      !name.empty() && name.front() != '.' && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  if (plain && name.ends_with(".safetensors")) return absl::OkStatus();
  return InvalidArgument("weight_map names the shard '" + name + "', not a .safetensors file of the directory");
}

class HfModel : public ModelFile {
 public:
  absl::Status Read(const std::string& directory) {
    path_ = directory;
    RETURN_IF_ERROR(ReadConfig());
    RETURN_IF_ERROR(ReadWeights());
    ASSIGN_OR_RETURN(const json tokenizer_config,
                     ReadOptionalJsonObject(At("tokenizer_config.json"), kTokenizerBytesMax));
    RETURN_IF_ERROR(ReadChatTemplate(tokenizer_config));
    tokenizer_ = ReadTokenizer(tokenizer_config);
    digest_ = ModelDigest(config_, tensors_, tokenizer_.ok() ? &*tokenizer_ : nullptr, chat_template_);
    return absl::OkStatus();
  }

 private:
  fs::path At(const char* name) const { return fs::path(path_) / name; }

  absl::Status ReadConfig() {
    const fs::path path = At("config.json");
    ASSIGN_OR_RETURN(const json document, ReadJsonObject(path, kConfigBytesMax));
    absl::StatusOr<ModelConfig> config = ReadHfConfig(document, DirectoryName());
    if (!config.ok()) return Annotate(config.status(), path.string());
    config_ = *std::move(config);
    absl::StatusOr<HfSpecialIds> ids = ReadHfSpecialIds(document);
    if (!ids.ok()) return Annotate(ids.status(), path.string());
    special_ids_ = *ids;
    return ReadGenerationConfig();
  }

  // Its ids, where given, are what the model's authors generate with.
  absl::Status ReadGenerationConfig() {
    const fs::path path = At("generation_config.json");
    ASSIGN_OR_RETURN(const json document, ReadOptionalJsonObject(path, kConfigBytesMax));
    const absl::StatusOr<HfSpecialIds> ids = ReadHfSpecialIds(document);
    if (!ids.ok()) return Annotate(ids.status(), path.string());
    if (ids->bos) special_ids_.bos = ids->bos;
    if (ids->eos) special_ids_.eos = ids->eos;
    if (ids->pad) special_ids_.pad = ids->pad;
    return absl::OkStatus();
  }

  std::string DirectoryName() const {
    std::error_code error;
    const fs::path absolute = fs::canonical(path_, error);
    return (error ? fs::path(path_) : absolute).filename().string();
  }

  absl::Status ReadWeights() {
    if (config_.architecture == "checksum") return absl::OkStatus();  // it has none
    std::vector<StoredTensor> stored;
    const fs::path single = At("model.safetensors");
    std::error_code error;
    if (fs::exists(single, error)) {
      RETURN_IF_ERROR(MapShard(single, nullptr, "", &stored));
    } else {
      RETURN_IF_ERROR(MapShards(&stored));
    }
    absl::StatusOr<ModelTensors> tensors = BindTensors(config_, kHfNames, stored);
    if (!tensors.ok()) return Annotate(tensors.status(), path_);
    tensors_ = *std::move(tensors);
    for (const StoredTensor& tensor : stored) weight_bytes_ += tensor.data.size();
    return absl::OkStatus();
  }

  absl::Status MapShards(std::vector<StoredTensor>* stored) {
    const fs::path index_path = At("model.safetensors.index.json");
    absl::StatusOr<json> index = ReadJsonObject(index_path, kIndexBytesMax);
    if (absl::IsNotFound(index.status()))
      return absl::NotFoundError(path_ + " has neither model.safetensors nor model.safetensors.index.json");
    RETURN_IF_ERROR(index.status());
    const json* map = JsonMember(*index, "weight_map");
    if (map == nullptr || !map->is_object()) return InvalidArgument(index_path.string() + ": weight_map is missing");
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : map->items()) {
      if (!shard.is_string())
        return InvalidArgument(index_path.string() + ": the shard of '" + tensor + "' is no name");
      const absl::Status status = CheckShardName(shard.get_ref<const std::string&>());
      if (!status.ok()) return Annotate(status, index_path.string());
      shards.insert(shard.get<std::string>());
    }
    if (shards.size() > kShardsMax) return InvalidArgument(index_path.string() + ": more shards than make sense");
    for (const std::string& shard : shards) RETURN_IF_ERROR(MapShard(At(shard.c_str()), map, shard, stored));
    if (stored->size() == map->size()) return absl::OkStatus();
    return InvalidArgument(index_path.string() + ": weight_map lists " + std::to_string(map->size()) +
                           " tensors, the shards hold " + std::to_string(stored->size()));
  }

  // Adds the tensors of one file, each of which the index (if any) must place there: so none is in two shards.
  absl::Status MapShard(const fs::path& path, const json* map, const std::string& shard,
                        std::vector<StoredTensor>* stored) {
    ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path.string()));
    absl::StatusOr<std::vector<StoredTensor>> tensors = ParseSafetensors(file->bytes());
    if (!tensors.ok()) return Annotate(tensors.status(), path.string());
    for (StoredTensor& tensor : *tensors) {
      if (map != nullptr && (!map->contains(tensor.name) || (*map)[tensor.name] != shard))
        return InvalidArgument(path.string() + ": the index does not place tensor '" + tensor.name + "' here");
      stored->push_back(std::move(tensor));
    }
    maps_.push_back(std::move(file));
    return absl::OkStatus();
  }

  absl::StatusOr<TokenizerSpec> ReadTokenizer(const json& tokenizer_config) const {
    const fs::path path = At("tokenizer.json");
    const absl::StatusOr<json> document = ReadJsonObject(path, kTokenizerBytesMax);
    if (absl::IsNotFound(document.status())) return InvalidArgument(path.string() + " is missing: no tokenizer");
    RETURN_IF_ERROR(document.status());
    absl::StatusOr<TokenizerSpec> spec = ReadHfTokenizer(*document, tokenizer_config, special_ids_, config_.vocab_size);
    if (!spec.ok()) return Annotate(spec.status(), path.string());
    return spec;
  }

  // The file of its own wins, as in transformers; a list of named templates has one called "default".
  absl::Status ReadChatTemplate(const json& tokenizer_config) {
    absl::StatusOr<std::string> text = ReadText(At("chat_template.jinja"), kChatTemplateBytesMax);
    if (text.ok()) chat_template_ = *std::move(text);
    if (!absl::IsNotFound(text.status())) return text.status();
    const json* member = JsonMember(tokenizer_config, "chat_template");
    if (member != nullptr && member->is_array()) {
      const json& list = *member;
      member = nullptr;
      for (const json& entry : list)
        if (entry.is_object() && entry.value("name", json()) == "default") member = JsonMember(entry, "template");
    }
    if (member == nullptr || !member->is_string()) return absl::OkStatus();
    if (member->get_ref<const std::string&>().size() > kChatTemplateBytesMax)
      return InvalidArgument(At("tokenizer_config.json").string() + ": the chat template is larger than makes sense");
    chat_template_ = member->get<std::string>();
    return absl::OkStatus();
  }

  std::vector<std::unique_ptr<MappedFile>> maps_;
  HfSpecialIds special_ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFile>> OpenHfModel(const std::string& directory) {
  auto model = std::make_unique<HfModel>();
  RETURN_IF_ERROR(model->Read(directory));
  return model;
}

}  // namespace braid
