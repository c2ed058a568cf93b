#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/tensors.h"
#include "model/tokenizer_spec.h"

namespace braid {

// A model on disk, mapped: a GGUF file, packed or not, or a Hugging Face directory. Everything read from it is checked
// (it is hostile input): sizes, bounds, types, shapes against the configuration. Thread-safe once open.
class ModelFile {
 public:
  // `path`: a .gguf file or a directory with config.json and safetensors. Errors are kInvalidArgument (kNotFound for a
  // missing file), name the file and the tensor or key, and never depend on anything but the bytes.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);
  virtual ~ModelFile() = default;

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const ModelTensors& tensors() const { return tensors_; }
  // kInvalidArgument if the file has none that we know; the weights are usable all the same.
  const absl::StatusOr<TokenizerSpec>& tokenizer() const { return tokenizer_; }
  // The chat template's text, if the file has one.
  const std::optional<std::string>& chat_template() const { return chat_template_; }
  // 64 hex digits that tell two models apart: SHA-256 over configuration, tokenizer, chat template and every tensor's
  // name, type, shape, size and a sample of its bytes (a whole 5 GB file would take seconds). A packed file has that of
  // the model it was packed from.
  const std::string& digest() const { return digest_; }
  uint64_t weight_bytes() const { return weight_bytes_; }

 protected:
  std::string path_;
  ModelConfig config_;
  ModelTensors tensors_;
  absl::StatusOr<TokenizerSpec> tokenizer_ = absl::NotFoundError("no tokenizer");
  std::optional<std::string> chat_template_;
  std::string digest_;
  uint64_t weight_bytes_ = 0;
};

}  // namespace braid
