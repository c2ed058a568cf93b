#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/model_file.h"

namespace braid {

// ModelFile::Open for a Hugging Face directory: config.json; model.safetensors, or model.safetensors.index.json and its
// shards (a checksum model has no weights); optionally tokenizer.json, tokenizer_config.json, generation_config.json,
// chat_template.jinja.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenHfModel(const std::string& directory);

}  // namespace braid
