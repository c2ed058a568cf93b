#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "gateway/json/cursor.h"
#include "gateway/openai/bodies.h"
#include "gateway/request.h"

namespace braid {

// What chat and legacy completions have in common, while their body is being read.
struct SharedFields {
  GenerationParams params;
  AnswerOptions answer;
  bool has_stream_options = false;
  std::optional<int64_t> max_completion_tokens, best_of;
  std::string safety_identifier;  // the newer name of `user`
};

// Sampling, length, delivery, and the known fields that are accepted with their harmless values only.
FieldResult ReadSharedField(std::string_view name, const JsonCursor& value, SharedFields* out);
// What only the whole body shows: fields that need or contradict each other.
bool CheckSharedFields(const JsonCursor& body, SharedFields* fields);

}  // namespace braid
