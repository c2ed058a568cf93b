#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace braid {

struct TokenUsage {
  int prompt_tokens = 0;
  int output_tokens = 0;
  int cached_tokens = 0;  // of the prompt, if the server says so
};

// What matters here of one event of a streamed completion (or chat).
struct AnswerChunk {
  bool has_text = false;
  int token_ids = 0;  // listed beside the text, by servers that do
  std::string finish_reason;
  std::optional<TokenUsage> usage;
  std::optional<std::string> error;  // the server's own words

  int tokens() const { return token_ids > 0 ? token_ids : has_text ? 1 : 0; }
};

// nullopt if `data` is not a JSON object. Unknown members are skipped.
std::optional<AnswerChunk> ParseAnswerChunk(std::string_view data);

// The message of an error body in OpenAI's form, else the beginning of the body itself.
std::string ErrorMessage(std::string_view body);

}  // namespace braid
