#include "gateway/http/api.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <typeinfo>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "gateway/json/writer.h"
#include "gateway/openai/bodies.h"

namespace braid {
namespace {

constexpr char kWelcome[] =
    "Braid: a server for mixture-of-experts language models, with OpenAI's API.\n"
    "\n"
    "POST /v1/chat/completions    POST /v1/completions    GET /v1/models\n"
    "POST /tokenize               POST /detokenize        GET /version\n"
    "GET  /health                 GET  /metrics\n";

ApiError DrainingError() {
  return {.status = absl::StatusCode::kUnavailable,
          .code = "draining",
          .message = "The server is shutting down; try another or come back later.",
          .retry_after = absl::Seconds(1)};
}

HttpReply TextReply(std::string body) { return {.content_type = kTextContentType, .body = std::move(body)}; }

// "loading: 40% of the weights" -> status "loading", detail "40% of the weights".
HttpReply HealthReply(const std::string& not_ready, const std::string& unprotected) {
  std::string body;
  JsonWriter json(&body);
  const size_t colon = not_ready.find(':');
  json.BeginObject().Key("status").String(not_ready.empty() ? "ready" : not_ready.substr(0, colon));
  if (colon != not_ready.npos) {
    const size_t detail = not_ready.find_first_not_of(' ', colon + 1);
    json.Key("detail").String(detail == not_ready.npos ? "" : not_ready.substr(detail));
  }
  if (!unprotected.empty()) json.Key("unprotected").String(unprotected);
  json.EndObject();
  HttpReply reply = JsonReply(std::move(body));
  if (!not_ready.empty()) {
    reply.status = 503;
    reply.headers.emplace_back("Retry-After", "1");
  }
  return reply;
}

void WriteModel(const ModelInfo& model, JsonWriter* json) {
  json->BeginObject().Key("id").String(model.id).Key("object").String("model");
  json->Key("created").Int(model.created_unix_s).Key("owned_by").String("braid");
  json->Key("root").String(model.id).Key("parent").Null();
  json->Key("max_model_len").Int(model.context_tokens_max);
  if (!model.arithmetic.empty()) json->Key("arithmetic").String(model.arithmetic);
  if (!model.kv_type.empty()) json->Key("kv_type").String(model.kv_type);
  json->EndObject();
}

// Names the model file and, unless they are what a worker has that is told nothing, the arithmetic and how keys and
// values are kept: the same fingerprint, seed and request give the same answer.
std::string Fingerprint(const ModelInfo& model) {
  constexpr size_t kDigits = 12;
  const size_t colon = model.digest.find(':');  // "sha256:..."
  const std::string hex = colon == model.digest.npos ? model.digest : model.digest.substr(colon + 1);
  if (hex.empty()) return "";
  std::string arithmetic = model.arithmetic.empty() || model.arithmetic == "cpu" ? "" : "_" + model.arithmetic;
  std::replace(arithmetic.begin(), arithmetic.end(), ' ', '_');
  const std::string kv = model.kv_type.empty() || model.kv_type == "bf16" ? "" : "_kv_" + model.kv_type;
  return "fp_" + hex.substr(0, kDigits) + arithmetic + kv;
}

AnswerShape ShapeOf(const char* prefix, const ModelInfo& model, const AnswerOptions& options) {
  return {.id = prefix + RandomHex128(),
          .model = model.id,
          .fingerprint = Fingerprint(model),
          .created_unix_s = absl::ToUnixSeconds(absl::Now()),
          .options = options};
}

using StartResult = std::variant<ApiError, std::unique_ptr<Call>>;

HttpOutcome Outcome(StartResult result, std::unique_ptr<AnswerFormatter> formatter, bool stream) {
  if (const auto* error = std::get_if<ApiError>(&result)) return ErrorReply(*error);
  return StartedCall{std::get<1>(std::move(result)), std::move(formatter), stream};
}

HttpReply TokensReply(const std::vector<TokenId>& tokens, int context_tokens_max) {
  std::string body;
  JsonWriter json(&body);
  json.BeginObject().Key("count").Uint(tokens.size()).Key("max_model_len").Int(context_tokens_max);
  json.Key("tokens").BeginArray();
  for (TokenId token : tokens) json.Int(token);
  json.EndArray().EndObject();
  return JsonReply(std::move(body));
}

}  // namespace

HttpReply HttpApi::Get(const RouteMatch& match) {
  switch (match.route.id) {
    case RouteId::kRoot:
      return TextReply(kWelcome);
    case RouteId::kHealth:
    case RouteId::kReady:
      return Health();
    case RouteId::kLive:
      return HealthReply("", "");
    case RouteId::kVersion:
      return JsonReply(R"({"version":")" BRAID_VERSION R"("})");
    case RouteId::kMetrics:
      return {.content_type = kMetricsContentType, .body = metrics_.Serialize()};
    case RouteId::kModels:
      return Models("");
    case RouteId::kModel:
      return Models(match.argument);
    default:
      CHECK(false) << match.route.label << " is not a GET route";
  }
  return {};
}

HttpOutcome HttpApi::Post(RouteId route, const std::string& body, const std::string& request_id, Inference::Sink sink) {
  if (draining_) return ErrorReply(DrainingError());
  try {
    return Dispatch(route, body, request_id, std::move(sink));
  } catch (const std::exception& e) {  // out of memory, or a library that throws where it should not
    spdlog::error("request {} failed with {}", request_id, typeid(e).name());
    return ErrorReply({.status = absl::StatusCode::kInternal,
                       .code = "internal_error",
                       .message = "The server could not handle this request."});
  }
}

HttpOutcome HttpApi::Dispatch(RouteId route, const std::string& body, const std::string& request_id,
                              Inference::Sink sink) {
  switch (route) {
    case RouteId::kChat:
      return Chat(body, request_id, std::move(sink));
    case RouteId::kCompletions:
      return Completion(body, request_id, std::move(sink));
    case RouteId::kTokenize:
      return Tokenize(body);
    case RouteId::kDetokenize:
      return Detokenize(body);
    default:
      CHECK(false) << "not a POST route";
  }
  return HttpReply();
}

HttpReply HttpApi::Health() {
  return HealthReply(draining_ ? "draining" : inference_.NotReady(), inference_.Unprotected());
}

HttpReply HttpApi::Models(const std::string& only_id) {
  const ModelInfo model = inference_.model();
  if (!only_id.empty() && only_id != model.id)
    return ErrorReply({.status = absl::StatusCode::kNotFound,
                       .code = "model_not_found",
                       .param = "model",
                       .message = "This server has no such model; GET /v1/models lists what it has."});
  std::string body;
  JsonWriter json(&body);
  if (!only_id.empty()) {
    WriteModel(model, &json);
    return JsonReply(std::move(body));
  }
  json.BeginObject().Key("object").String("list").Key("data").BeginArray();
  WriteModel(model, &json);
  json.EndArray().EndObject();
  return JsonReply(std::move(body));
}

HttpOutcome HttpApi::Chat(const std::string& text, const std::string& request_id, Inference::Sink sink) {
  auto parsed = ParseChatBody(text);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  ChatBody& body = std::get<ChatBody>(parsed);
  auto formatter = MakeChatFormatter(ShapeOf("chatcmpl-", inference_.model(), body.answer));
  return Outcome(inference_.StartChat(std::move(body.request), request_id, std::move(sink)), std::move(formatter),
                 body.answer.stream);
}

HttpOutcome HttpApi::Completion(const std::string& text, const std::string& request_id, Inference::Sink sink) {
  auto parsed = ParseCompletionBody(text);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  CompletionBody& body = std::get<CompletionBody>(parsed);
  auto formatter = MakeCompletionFormatter(ShapeOf("cmpl-", inference_.model(), body.answer));
  StartResult result = inference_.StartCompletion(std::move(body.request), request_id, std::move(sink));
  // The validator speaks of both kinds of request; here the field has another name.
  if (auto* error = std::get_if<ApiError>(&result); error && error->param == "top_logprobs") error->param = "logprobs";
  return Outcome(std::move(result), std::move(formatter), body.answer.stream);
}

HttpReply HttpApi::Tokenize(const std::string& text) {
  auto parsed = ParseTokenizeBody(text);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  const TokenizeBody& body = std::get<TokenizeBody>(parsed);
  const auto tokens = body.chat ? inference_.TokenizeChat(*body.chat)
                                : inference_.Tokenize(body.model, *body.prompt, body.add_special_tokens);
  if (const auto* error = std::get_if<ApiError>(&tokens)) return ErrorReply(*error);
  return TokensReply(std::get<1>(tokens), inference_.model().context_tokens_max);
}

HttpReply HttpApi::Detokenize(const std::string& text) {
  auto parsed = ParseDetokenizeBody(text);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorReply(*error);
  const DetokenizeBody& body = std::get<DetokenizeBody>(parsed);
  const auto prompt = inference_.Detokenize(body.model, body.tokens);
  if (const auto* error = std::get_if<ApiError>(&prompt)) return ErrorReply(*error);
  std::string out;
  JsonWriter json(&out);
  json.BeginObject().Key("prompt").String(std::get<1>(prompt)).EndObject();
  return JsonReply(std::move(out));
}

}  // namespace braid
