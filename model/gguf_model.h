#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/model_file.h"

namespace braid {

// A packed file carries its digest, which is checked except in the moment in which it is being written.
enum class DigestCheck { kSealed, kUnsealed };

// ModelFile::Open for a .gguf file of the archs lfm2 and lfm2moe.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenGgufModel(const std::string& path,
                                                         DigestCheck check = DigestCheck::kSealed);

}  // namespace braid
