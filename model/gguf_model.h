#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/model_file.h"

namespace braid {

// ModelFile::Open for a .gguf file of the archs lfm2 and lfm2moe.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenGgufModel(const std::string& path);

}  // namespace braid
