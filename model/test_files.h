#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/model_file.h"

// Files for tests: a directory that vanishes, and a tiny model in memory that convert.h can write in any format.

namespace braid {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, std::string_view bytes);
// The model at `path`, which must be good.
std::unique_ptr<ModelFile> MustOpen(const std::string& path);

// Shapes small enough for thousands of copies, with every kind of layer: conv and dense, attention and MoE, conv and
// MoE.
ModelConfig TinyConfig();       // lfm2moe
ModelConfig TinyDenseConfig();  // lfm2
// The 256 bytes, two merges, three control tokens and one added token that is none.
TokenizerSpec TinyTokenizer();

// Random F32 weights, the same for the same configuration.
class TinyModel : public ModelFile {
 public:
  explicit TinyModel(ModelConfig config, bool tied_head = true);
  void set_tokenizer(absl::StatusOr<TokenizerSpec> tokenizer) { tokenizer_ = std::move(tokenizer); }
  void set_chat_template(std::string text) { chat_template_ = std::move(text); }
  // All of the model's values are in here; set one to see what a writer makes of it.
  std::vector<std::vector<float>>& values() { return values_; }

 private:
  TensorView Make(std::string name, int64_t rows, int64_t columns, float mean);
  void MakeLayer(int i);
  std::vector<std::vector<float>> values_;
};

}  // namespace braid
