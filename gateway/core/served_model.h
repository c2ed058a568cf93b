#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/core/defaults.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace braid {

class ModelFile;

// What the gateway knows of the model it answers for. Immutable after loading, so thread-safe.
struct ServedModel {
  std::string id;      // the name callers use
  std::string digest;  // must equal the workers'
  int64_t created_unix_s = 0;
  int context_tokens_max = 0;
  int vocab_size = 0;  // ids in [0, vocab_size) have a text and a row in the embedding
  std::unique_ptr<Tokenizer> tokenizer;
  absl::StatusOr<ChatTemplate> chat_template = absl::NotFoundError("no chat template");  // or why there is none
  GenerationDefaults defaults;
};

// `name`: empty for the file's own. kInvalidArgument if the file has no usable tokenizer; a model without a chat
// template loads, and only chat is refused.
absl::StatusOr<ServedModel> LoadServedModel(const ModelFile& file, const std::string& name);

}  // namespace braid
