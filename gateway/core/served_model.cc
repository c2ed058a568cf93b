#include "gateway/core/served_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/status.h"
#include "model/model_file.h"

namespace braid {
namespace {

int64_t ModifiedUnixSeconds(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_mtime : 0;
}

std::string NameOf(const ModelFile& file) {
  if (!file.config().name.empty()) return file.config().name;
  const std::filesystem::path path = std::filesystem::path(file.path()).lexically_normal();
  return path.has_stem() ? path.stem().string() : path.parent_path().filename().string();
}

absl::StatusOr<ChatTemplate> TemplateOf(const ModelFile& file) {
  if (!file.chat_template()) return absl::NotFoundError("the model file has no chat template");
  return ChatTemplate::Recognize(*file.chat_template());
}

}  // namespace

absl::StatusOr<ServedModel> LoadServedModel(const ModelFile& file, const std::string& name) {
  if (!file.tokenizer().ok()) return Annotate(file.tokenizer().status(), file.path());
  ServedModel model;
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Create(*file.tokenizer()));
  model.id = name.empty() ? NameOf(file) : name;
  model.digest = file.digest();
  model.created_unix_s = ModifiedUnixSeconds(file.path());
  model.context_tokens_max = file.config().context_tokens_max;
  model.vocab_size = std::min(file.config().vocab_size, model.tokenizer->vocab_size());
  model.chat_template = TemplateOf(file);
  model.defaults = DefaultsFor(file.config());
  return model;
}

}  // namespace braid
