#include "gateway/openai/bodies.h"

#include <utility>

#include "gateway/json/cursor.h"
#include "gateway/json/reader.h"
#include "gateway/openai/messages.h"
#include "gateway/openai/params.h"

namespace braid {
namespace {

// Parses the text and lets `read(cursor, &body)` fill the body.
template <typename Body, typename Read>
std::variant<ApiError, Body> ParseBody(std::string_view text, Read&& read) {
  std::variant<ApiError, Json> json = ReadJson(text);
  if (auto* error = std::get_if<ApiError>(&json)) return std::move(*error);
  std::optional<ApiError> error;
  Body body;
  if (!read(JsonCursor(std::get<Json>(json), &error), &body)) return *std::move(error);
  return body;
}

struct ChatFields {
  ChatRequest request;
  bool has_messages = false;
  bool logprobs = false;
  std::optional<int64_t> top_logprobs;
};

bool ReadToolChoice(const JsonCursor& value, ChatFields* fields) {
  if (value.value().is_object())
    return value.Fail("unsupported_value", "can only be \"auto\" or \"none\" here: calls are not forced");
  return value.Read(&fields->request.tool_choice);
}

constexpr JsonField<ChatFields> kChatFields[] = {
    {"model", [](const JsonCursor& v, ChatFields* f) { return v.Read(&f->request.model); }},
    {"messages",
     [](const JsonCursor& v, ChatFields* f) {
       f->has_messages = true;
       return ReadMessages(v, &f->request.messages);
     }},
    {"tools", [](const JsonCursor& v, ChatFields* f) { return ReadTools(v, &f->request.tools); }},
    {"tool_choice", ReadToolChoice},
    {"parallel_tool_calls", [](const JsonCursor& v, ChatFields*) { return v.Only({true}); }},
    {"logprobs", [](const JsonCursor& v, ChatFields* f) { return v.Read(&f->logprobs); }},
    {"top_logprobs", [](const JsonCursor& v, ChatFields* f) { return v.Read(&f->top_logprobs); }},
    {"response_format",
     [](const JsonCursor& v, ChatFields*) {
       return v.Only({Json{{"type", "text"}}});
     }},
    {"modalities", [](const JsonCursor& v, ChatFields*) { return v.Only({Json::array({"text"})}); }},
    {"verbosity", [](const JsonCursor& v, ChatFields*) { return v.Only({"medium"}); }},
    {"echo", [](const JsonCursor& v, ChatFields*) { return v.Only({false}); }},
    {"add_generation_prompt", [](const JsonCursor& v, ChatFields*) { return v.Only({true}); }},
    {"continue_final_message", [](const JsonCursor& v, ChatFields*) { return v.Only({false}); }},
    {"add_special_tokens", [](const JsonCursor& v, ChatFields*) { return v.Only({false}); }},
    {"chat_template_kwargs", [](const JsonCursor& v, ChatFields*) { return v.Only({Json::object()}); }},
    {"documents", [](const JsonCursor& v, ChatFields*) { return v.Only({Json::array()}); }},
    {"chat_template", [](const JsonCursor& v, ChatFields*) { return v.Only({nullptr}); }},
    {"audio", [](const JsonCursor& v, ChatFields*) { return v.Only({nullptr}); }},
    {"prediction", [](const JsonCursor& v, ChatFields*) { return v.Only({nullptr}); }},
    {"web_search_options", [](const JsonCursor& v, ChatFields*) { return v.Only({nullptr}); }},
    {"functions",
     [](const JsonCursor& v, ChatFields*) { return v.Fail("unsupported_value", "is replaced by 'tools'"); }},
    {"function_call",
     [](const JsonCursor& v, ChatFields*) { return v.Fail("unsupported_value", "is replaced by 'tool_choice'"); }},
};

bool CheckTopLogprobs(const JsonCursor& body, const ChatFields& fields) {
  if (fields.top_logprobs.value_or(0) == 0 || fields.logprobs) return true;
  return body.FailMember("top_logprobs", "invalid_value", "needs 'logprobs': true");
}

bool ReadChat(const JsonCursor& body, ChatBody* out) {
  ChatFields chat;
  SharedFields shared;
  const bool read = ReadMembers(body, [&](std::string_view name, const JsonCursor& value) {
    const FieldResult result = ReadField<ChatFields>(kChatFields, name, value, &chat);
    return result == FieldResult::kNotHere ? ReadSharedField(name, value, &shared) : result;
  });
  if (!read || !CheckSharedFields(body, &shared) || !CheckTopLogprobs(body, chat)) return false;
  if (!chat.has_messages) return body.Missing("messages");
  *out = {std::move(chat.request), shared.answer};
  out->request.params = std::move(shared.params);
  out->request.params.logprobs = chat.logprobs;
  out->request.params.top_logprobs = chat.top_logprobs.value_or(0);
  return true;
}

struct CompletionFields {
  CompletionRequest request;
  bool has_prompt = false;
  std::optional<int64_t> logprobs;
};

bool ReadPrompt(const JsonCursor& value, Prompt* out) {
  if (value.value().is_string()) return value.Read(&out->emplace<std::string>());
  if (!value.value().is_array()) return value.WrongType("a string or an array of token ids");
  return value.Read(&out->emplace<std::vector<int64_t>>());
}

// A string, token ids, or a list of either: numbers inside an array make it one prompt.
bool ReadPrompts(const JsonCursor& value, std::vector<Prompt>* out) {
  const Json& json = value.value();
  if (json.is_string() || (json.is_array() && !json.empty() && json[0].is_number()))
    return ReadPrompt(value, &out->emplace_back());
  if (!json.is_array()) return value.WrongType("a string, an array of strings, or token ids");
  return value.EachElement([out](const JsonCursor& prompt) { return ReadPrompt(prompt, &out->emplace_back()); });
}

constexpr JsonField<CompletionFields> kCompletionFields[] = {
    {"model", [](const JsonCursor& v, CompletionFields* f) { return v.Read(&f->request.model); }},
    {"prompt",
     [](const JsonCursor& v, CompletionFields* f) {
       f->has_prompt = true;
       return ReadPrompts(v, &f->request.prompts);
     }},
    {"echo", [](const JsonCursor& v, CompletionFields* f) { return v.Read(&f->request.echo); }},
    {"logprobs", [](const JsonCursor& v, CompletionFields* f) { return v.Read(&f->logprobs); }},
    {"suffix",
     [](const JsonCursor& v, CompletionFields*) {
       return v.Only({nullptr, ""});
     }},
    {"response_format",
     [](const JsonCursor& v, CompletionFields*) {
       return v.Only({Json{{"type", "text"}}});
     }},
    {"add_special_tokens", [](const JsonCursor& v, CompletionFields*) { return v.Only({true}); }},
};

bool ReadCompletion(const JsonCursor& body, CompletionBody* out) {
  CompletionFields completion;
  SharedFields shared;
  const bool read = ReadMembers(body, [&](std::string_view name, const JsonCursor& value) {
    const FieldResult result = ReadField<CompletionFields>(kCompletionFields, name, value, &completion);
    return result == FieldResult::kNotHere ? ReadSharedField(name, value, &shared) : result;
  });
  if (!read || !CheckSharedFields(body, &shared)) return false;
  if (!completion.has_prompt) return body.Missing("prompt");
  if (completion.logprobs.value_or(0) < 0) return body.FailMember("logprobs", "invalid_value", "must not be negative");
  *out = {std::move(completion.request), shared.answer};
  out->request.params = std::move(shared.params);
  out->request.params.logprobs = completion.logprobs.has_value();
  out->request.params.top_logprobs = completion.logprobs.value_or(0);
  return true;
}

struct TokenizeFields {
  TokenizeBody body;
  ChatRequest chat;
  bool has_messages = false;
  std::optional<bool> add_special_tokens;
};

constexpr JsonField<TokenizeFields> kTokenizeFields[] = {
    {"model", [](const JsonCursor& v, TokenizeFields* f) { return v.Read(&f->body.model); }},
    {"prompt", [](const JsonCursor& v, TokenizeFields* f) { return v.Read(&f->body.prompt); }},
    {"add_special_tokens", [](const JsonCursor& v, TokenizeFields* f) { return v.Read(&f->add_special_tokens); }},
    {"messages",
     [](const JsonCursor& v, TokenizeFields* f) {
       f->has_messages = true;
       return ReadMessages(v, &f->chat.messages);
     }},
    {"tools", [](const JsonCursor& v, TokenizeFields* f) { return ReadTools(v, &f->chat.tools); }},
    {"add_generation_prompt", [](const JsonCursor& v, TokenizeFields*) { return v.Only({true}); }},
    {"continue_final_message", [](const JsonCursor& v, TokenizeFields*) { return v.Only({false}); }},
    {"return_token_strs", [](const JsonCursor& v, TokenizeFields*) { return v.Only({false}); }},
};

bool ReadTokenize(const JsonCursor& body, TokenizeBody* out) {
  TokenizeFields fields;
  if (!ReadObject<TokenizeFields>(body, kTokenizeFields, &fields)) return false;
  if (fields.body.prompt.has_value() == fields.has_messages)
    return body.FailMember("prompt", fields.has_messages ? "invalid_value" : "missing_field",
                           "or 'messages' is required, and only one of them");
  if (!fields.has_messages && !fields.chat.tools.empty())
    return body.FailMember("tools", "invalid_value", "needs 'messages'");
  if (fields.has_messages && fields.add_special_tokens.value_or(false))
    return body.FailMember("add_special_tokens", "unsupported_value",
                           "can only be false with 'messages': the chat template writes its own");
  *out = std::move(fields.body);
  out->add_special_tokens = fields.add_special_tokens.value_or(true);
  if (fields.has_messages) {
    fields.chat.model = out->model;
    out->chat = std::move(fields.chat);
  }
  return true;
}

struct DetokenizeFields {
  DetokenizeBody body;
  bool has_tokens = false;
};

constexpr JsonField<DetokenizeFields> kDetokenizeFields[] = {
    {"model", [](const JsonCursor& v, DetokenizeFields* f) { return v.Read(&f->body.model); }},
    {"tokens",
     [](const JsonCursor& v, DetokenizeFields* f) {
       f->has_tokens = true;
       return v.Read(&f->body.tokens);
     }},
};

bool ReadDetokenize(const JsonCursor& body, DetokenizeBody* out) {
  DetokenizeFields fields;
  if (!ReadObject<DetokenizeFields>(body, kDetokenizeFields, &fields)) return false;
  if (!fields.has_tokens) return body.Missing("tokens");
  *out = std::move(fields.body);
  return true;
}

}  // namespace

std::variant<ApiError, ChatBody> ParseChatBody(std::string_view text) { return ParseBody<ChatBody>(text, ReadChat); }

std::variant<ApiError, CompletionBody> ParseCompletionBody(std::string_view text) {
  return ParseBody<CompletionBody>(text, ReadCompletion);
}

std::variant<ApiError, TokenizeBody> ParseTokenizeBody(std::string_view text) {
  return ParseBody<TokenizeBody>(text, ReadTokenize);
}

std::variant<ApiError, DetokenizeBody> ParseDetokenizeBody(std::string_view text) {
  return ParseBody<DetokenizeBody>(text, ReadDetokenize);
}

}  // namespace braid
