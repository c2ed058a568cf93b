#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gateway/api_error.h"
#include "gateway/request.h"

// The JSON bodies of the OpenAI-compatible routes, read strictly: right types, no unknown fields, and every field that
// asks for something this server does not do is refused by name (harmless known ones are accepted). Values that need
// the model or a range are left to the validator behind both doors. A null means "left out".
//
// Codes: invalid_json, missing_field, unknown_field, invalid_type, invalid_value, unsupported_value. `param` is the
// exact path. All functions are pure and thread-safe; time and memory are linear in the body.

namespace braid {

struct AnswerOptions {  // how the answer is delivered; never what it says
  bool stream = false;
  bool include_usage = false;     // a last chunk with token counts; only with stream
  bool return_token_ids = false;  // extension: "token_ids" beside the text
};

struct ChatBody {
  ChatRequest request;
  AnswerOptions answer;
};
std::variant<ApiError, ChatBody> ParseChatBody(std::string_view text);

struct CompletionBody {
  CompletionRequest request;
  AnswerOptions answer;
};
std::variant<ApiError, CompletionBody> ParseCompletionBody(std::string_view text);

// Exactly one of `prompt` and `chat` is set.
struct TokenizeBody {
  std::string model;
  std::optional<std::string> prompt;
  bool add_special_tokens = true;  // for a prompt; a chat template always writes its own
  std::optional<ChatRequest> chat;
};
std::variant<ApiError, TokenizeBody> ParseTokenizeBody(std::string_view text);

struct DetokenizeBody {
  std::string model;
  std::vector<int64_t> tokens;
};
std::variant<ApiError, DetokenizeBody> ParseDetokenizeBody(std::string_view text);

}  // namespace braid
