#include "model/model_file.h"

#include <filesystem>

#include "base/status.h"
#include "model/gguf_model.h"
#include "model/hf_model.h"

namespace braid {

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return OpenHfModel(path);
  if (path.ends_with(".safetensors"))
    return InvalidArgument(path + ": open the directory that holds it and config.json instead");
  return OpenGgufModel(path);
}

}  // namespace braid
