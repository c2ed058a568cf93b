#include "gateway/grpc/convert.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "gateway/json/reader.h"

namespace braid {
namespace {

GenerationParams FromProto(const v1::GenerationOptions& options) {
  GenerationParams params;
  if (options.has_temperature()) params.temperature = options.temperature();
  if (options.has_top_k()) params.top_k = options.top_k();
  if (options.has_top_p()) params.top_p = options.top_p();
  if (options.has_min_p()) params.min_p = options.min_p();
  if (options.has_repetition_penalty()) params.repetition_penalty = options.repetition_penalty();
  if (options.has_presence_penalty()) params.presence_penalty = options.presence_penalty();
  if (options.has_frequency_penalty()) params.frequency_penalty = options.frequency_penalty();
  if (options.has_seed()) params.seed = options.seed();
  if (options.has_max_tokens()) params.max_tokens = options.max_tokens();
  if (options.has_n()) params.n = options.n();
  for (const auto& [token, bias] : options.logit_bias()) params.logit_bias.emplace_back(token, bias);
  params.stop.assign(options.stop().begin(), options.stop().end());
  params.logprobs = options.logprobs();
  params.top_logprobs = options.top_logprobs();
  params.ignore_eos = options.ignore_eos();
  params.user = options.user();
  params.cache_salt = options.cache_salt();
  return params;
}

Message FromProto(const v1::ChatMessage& proto) {
  Message message{proto.role(), proto.content(), std::nullopt, {}, proto.tool_call_id()};
  if (!proto.reasoning().empty()) message.reasoning = proto.reasoning();
  for (const v1::ToolCall& call : proto.tool_calls())
    message.tool_calls.push_back({call.id(), call.name(), call.arguments()});
  return message;
}

std::variant<ApiError, Json> FromProto(const v1::Tool& tool, int index) {
  Json function = {{"name", tool.name()}};
  if (!tool.description().empty()) function["description"] = tool.description();
  if (!tool.parameters().empty()) {
    std::variant<ApiError, Json> parameters = ReadJson(tool.parameters());
    if (auto* error = std::get_if<ApiError>(&parameters)) {
      error->param = fmt::format("tools[{}].function.parameters", index);
      return *error;
    }
    function["parameters"] = std::get<Json>(std::move(parameters));
  }
  return Json{{"type", "function"}, {"function", std::move(function)}};
}

void ToProto(const TokenScore& score, v1::TokenScore* proto) {
  proto->set_token(score.token);
  proto->set_text(score.bytes);
  proto->set_logprob(score.logprob);
  for (const TokenScore& top : score.top) ToProto(top, proto->add_top());
}

// The messages that chat and completions have in common.
template <typename Response>
class Responses {
 public:
  Response& Add(int choice) {
    list.emplace_back().set_choice(static_cast<uint32_t>(choice));
    return list.back();
  }
  void AddScores(int choice, const std::vector<TokenScore>& scores) {
    if (scores.empty()) return;
    v1::ContentLogprobs* logprobs = Add(choice).mutable_logprobs();
    for (const TokenScore& score : scores) ToProto(score, logprobs->add_tokens());
  }
  void AddFinished(const Finished& finished) {
    v1::Finished* proto = Add(finished.choice).mutable_finished();
    switch (finished.reason) {
      case Finished::Reason::kStop:
        return proto->set_reason(v1::Finished::REASON_STOP);
      case Finished::Reason::kLength:
        return proto->set_reason(v1::Finished::REASON_LENGTH);
      case Finished::Reason::kToolCalls:
        return proto->set_reason(v1::Finished::REASON_TOOL_CALLS);
    }
  }
  void AddUsage(const Done& done) {
    v1::Usage* usage = Add(0).mutable_usage();
    usage->set_prompt_tokens(static_cast<uint32_t>(done.prompt_tokens));
    usage->set_completion_tokens(static_cast<uint32_t>(done.completion_tokens));
    usage->set_reasoning_tokens(static_cast<uint32_t>(done.reasoning_tokens));
    usage->set_seed(done.seed);
    usage->set_cached_tokens(static_cast<uint32_t>(done.cached_tokens));
  }

  std::vector<Response> list;
};

void AddChatDelta(const Delta& delta, Responses<v1::ChatResponse>* responses) {
  if (delta.kind == Delta::Kind::kToolCall) {
    v1::ToolCallDelta* call = responses->Add(delta.choice).mutable_tool_call();
    call->set_index(static_cast<uint32_t>(delta.tool_index));
    call->set_id(delta.tool_id);
    call->set_name(delta.tool_name);
    call->set_arguments(delta.text);
  } else if (!delta.text.empty()) {
    v1::ChatResponse& response = responses->Add(delta.choice);
    delta.kind == Delta::Kind::kReasoning ? response.set_reasoning(delta.text) : response.set_content(delta.text);
  }
  responses->AddScores(delta.choice, delta.logprobs);
}

void AddGenerateDelta(const Delta& delta, Responses<v1::GenerateResponse>* responses) {
  v1::GeneratedText* text = responses->Add(delta.choice).mutable_text();
  text->set_text(delta.text);
  text->mutable_tokens()->Add(delta.tokens.begin(), delta.tokens.end());
  responses->AddScores(delta.choice, delta.logprobs);
}

void AddEcho(const EchoedPrompt& echo, Responses<v1::GenerateResponse>* responses) {
  responses->Add(echo.choice).mutable_text()->set_text(echo.text);
  responses->AddScores(echo.choice, echo.logprobs);
}

}  // namespace

std::variant<ApiError, ChatRequest> FromProto(const v1::ChatRequest& request) {
  ChatRequest chat;
  chat.model = request.model();
  for (const v1::ChatMessage& message : request.messages()) chat.messages.push_back(FromProto(message));
  for (int i = 0; i < request.tools_size(); ++i) {
    std::variant<ApiError, Json> tool = FromProto(request.tools(i), i);
    if (auto* error = std::get_if<ApiError>(&tool)) return std::move(*error);
    chat.tools.push_back(std::get<Json>(std::move(tool)));
  }
  chat.tool_choice = request.tool_choice();
  chat.params = FromProto(request.options());
  return chat;
}

std::variant<ApiError, CompletionRequest> FromProto(const v1::GenerateRequest& request) {
  CompletionRequest completion;
  completion.model = request.model();
  completion.echo = request.echo();
  completion.params = FromProto(request.options());
  if (request.has_text()) completion.prompts.emplace_back(request.text());
  if (request.has_tokens())
    completion.prompts.emplace_back(
        std::vector<int64_t>(request.tokens().tokens().begin(), request.tokens().tokens().end()));
  return completion;  // without a prompt the validator refuses it
}

std::vector<v1::ChatResponse> ToChatResponses(const CallEvent& event) {
  Responses<v1::ChatResponse> responses;
  if (const auto* delta = std::get_if<Delta>(&event)) AddChatDelta(*delta, &responses);
  if (const auto* finished = std::get_if<Finished>(&event)) responses.AddFinished(*finished);
  if (const auto* done = std::get_if<Done>(&event)) responses.AddUsage(*done);
  return std::move(responses.list);
}

std::vector<v1::GenerateResponse> ToGenerateResponses(const CallEvent& event) {
  Responses<v1::GenerateResponse> responses;
  if (const auto* echo = std::get_if<EchoedPrompt>(&event)) AddEcho(*echo, &responses);
  if (const auto* delta = std::get_if<Delta>(&event)) AddGenerateDelta(*delta, &responses);
  if (const auto* finished = std::get_if<Finished>(&event)) responses.AddFinished(*finished);
  if (const auto* done = std::get_if<Done>(&event)) responses.AddUsage(*done);
  return std::move(responses.list);
}

}  // namespace braid
