#include "gateway/openai/format.h"

#include "gateway/openai/format_parts.h"

namespace braid {

void FormatterBase::Add(const CallEvent& event, std::string* out) {
  if (const auto* echo = std::get_if<EchoedPrompt>(&event)) OnEcho(*echo, out);
  if (const auto* delta = std::get_if<Delta>(&event)) OnDelta(*delta, out);
  if (const auto* finished = std::get_if<Finished>(&event)) OnFinished(*finished, out);
  if (const auto* done = std::get_if<Done>(&event)) OnDone(*done, out);
  const auto* error = std::get_if<ApiError>(&event);
  if (error && shape_.options.stream) *out += "data: " + ErrorJson(*error) + "\n\n";
}

void FormatterBase::WriteHead(JsonWriter* json) const {
  json->Key("id").String(shape_.id).Key("object").String(object_).Key("created").Int(shape_.created_unix_s);
  json->Key("model").String(shape_.model);
  if (!shape_.fingerprint.empty()) json->Key("system_fingerprint").String(shape_.fingerprint);
}

void FormatterBase::EndStream(const Done& done, std::string* out) const {
  if (shape_.options.include_usage) {
    AppendEvent(out, [&](JsonWriter* json) {
      WriteHead(json);
      json->Key("choices").BeginArray().EndArray();
      WriteUsage(done, json);
    });
  }
  *out += "data: [DONE]\n\n";
}

void WriteUsage(const Done& done, JsonWriter* json) {
  json->Key("usage").BeginObject();
  json->Key("prompt_tokens").Int(done.prompt_tokens);
  json->Key("completion_tokens").Int(done.completion_tokens);
  json->Key("total_tokens").Int(done.prompt_tokens + done.completion_tokens);
  json->Key("prompt_tokens_details").BeginObject();
  json->Key("cached_tokens").Int(done.cached_tokens).EndObject();
  json->Key("completion_tokens_details").BeginObject();
  json->Key("reasoning_tokens").Int(done.reasoning_tokens).EndObject().EndObject();
  json->Key("seed").Uint(done.seed);  // sending it back gives the same answer
}

void WriteTokenIds(const std::vector<TokenId>& tokens, JsonWriter* json) {
  json->Key("token_ids").BeginArray();
  for (TokenId token : tokens) json->Int(token);
  json->EndArray();
}

std::string ErrorJson(const ApiError& error) {
  std::string out;
  JsonWriter json(&out);
  json.BeginObject().Key("error").BeginObject();
  json.Key("message").String(error.message).Key("type").String(ErrorType(error)).Key("param");
  error.param.empty() ? json.Null() : json.String(error.param);
  json.Key("code");
  error.code.empty() ? json.Null() : json.String(error.code);
  json.EndObject().EndObject();
  return out;
}

}  // namespace braid
