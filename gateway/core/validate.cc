#include "gateway/core/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "gateway/core/validate_parts.h"

namespace braid {

ApiError Invalid(std::string param, std::string message, std::string code) {
  return {absl::StatusCode::kInvalidArgument, std::move(code), std::move(param), std::move(message), std::nullopt};
}

namespace {

ApiError TooLong(std::string param, std::string message) {
  return Invalid(std::move(param), std::move(message), "context_length_exceeded");
}

MaybeError CheckModel(const std::string& asked, const ServedModel& model) {
  constexpr size_t kShownBytesMax = 128;
  if (asked.empty() || asked == model.id) return std::nullopt;
  const std::string shown = ToValidUtf8(asked.substr(0, kShownBytesMax));
  return ApiError{absl::StatusCode::kNotFound, "model_not_found", "model",
                  fmt::format("the model '{}' is not served here; '{}' is", shown, model.id), std::nullopt};
}

MaybeError CheckChatIsPossible(const ServedModel& model) {
  if (model.chat_template.ok()) return std::nullopt;
  return Invalid("messages",
                 fmt::format("the model '{}' cannot chat: {}; use completions instead", model.id,
                             std::string(model.chat_template.status().message())),
                 "chat_not_supported");
}

// The bound before tokenizing: no work for what cannot fit.
MaybeError CheckBytes(uint64_t bytes, int context_tokens_max, const std::string& param) {
  const uint64_t bytes_max = static_cast<uint64_t>(context_tokens_max) * kBytesPerTokenMax;
  if (bytes <= bytes_max) return std::nullopt;
  return TooLong(param, fmt::format("{} has {} bytes; with a context of {} tokens at most {} are accepted", param,
                                    bytes, context_tokens_max, bytes_max));
}

uint64_t Bytes(const Message& message) {
  uint64_t bytes = message.role.size() + message.content.size();
  if (message.reasoning) bytes += message.reasoning->size();
  for (const MessageCall& call : message.tool_calls) bytes += call.name.size() + call.arguments.size();
  return bytes;
}

// Each message costs at least this many tokens beside its text: <|im_start|>, role, newline, <|im_end|>.
constexpr uint64_t kTokensPerMessageMin = 4;

MaybeError CheckMessagesFit(const ChatRequest& request, int context_tokens_max) {
  if (request.messages.size() * kTokensPerMessageMin > static_cast<uint64_t>(context_tokens_max))
    return TooLong("messages", fmt::format("{} messages do not fit into the context of {} tokens",
                                           request.messages.size(), context_tokens_max));
  uint64_t bytes = 0;
  for (const Message& message : request.messages) bytes += Bytes(message);
  return CheckBytes(bytes, context_tokens_max, "messages");
}

MaybeError CheckToolsFit(const ChatInput& input, int context_tokens_max) {
  uint64_t bytes = 0;
  for (const auto& tool : input.tools) bytes += tool.dump().size();
  return CheckBytes(bytes, context_tokens_max, "tools");
}

// How many tokens may follow the prompt: as asked, or the default, but never more than the context has left.
MaybeError FitAnswer(const GenerationParams& params, const CallContext& context, const std::string& param,
                     PreparedPrompt* prompt) {
  const int context_tokens_max = context.context_tokens_max;
  const int64_t used = static_cast<int64_t>(prompt->tokens.size());
  if (used == 0) return Invalid(param, "the prompt has no tokens");
  if (used >= context_tokens_max)
    return TooLong(param, fmt::format("the prompt has {} tokens; the context of {} has no room for it and an answer",
                                      used, context_tokens_max));
  const int64_t left = context_tokens_max - used;
  if (params.max_tokens.value_or(1) > left)
    return TooLong("max_tokens", fmt::format("the prompt's {} tokens and max_tokens {} exceed the context of {} tokens",
                                             used, *params.max_tokens, context_tokens_max));
  const int64_t unset = context.answer_tokens_default > 0 ? context.answer_tokens_default : left;
  prompt->max_new_tokens = static_cast<int>(std::min(params.max_tokens.value_or(unset), left));
  return std::nullopt;
}

// One bound on all that a call can cost, so that n, prompts and max_tokens cannot multiply into something absurd.
MaybeError CheckCost(const PreparedCall& call, int context_tokens_max) {
  int64_t tokens = 0;
  for (const PreparedPrompt& prompt : call.prompts)
    tokens += call.n * (static_cast<int64_t>(prompt.tokens.size()) + prompt.max_new_tokens);
  const int64_t tokens_max = int64_t{kContextsMax} * context_tokens_max;
  if (tokens <= tokens_max) return std::nullopt;
  return Invalid("max_tokens",
                 fmt::format("all prompts and answers of the call may need {} tokens; at most {} are allowed: set a "
                             "smaller max_tokens, or send fewer prompts or choices",
                             tokens, tokens_max),
                 "request_too_large");
}

MaybeError CheckSequences(size_t prompts, int n) {
  if (prompts == 0) return Invalid("prompt", "there must be at least one prompt");
  if (prompts > kSequencesMax || prompts * static_cast<size_t>(n) > kSequencesMax)
    return Invalid("prompt", fmt::format("prompts times n must not exceed {}", kSequencesMax), "request_too_large");
  return std::nullopt;
}

MaybeError CheckIds(const std::vector<int64_t>& ids, int vocab_size, const std::string& param) {
  const auto unknown = std::ranges::find_if(ids, [&](int64_t id) { return id < 0 || id >= vocab_size; });
  if (unknown == ids.end()) return std::nullopt;
  return Invalid(param, fmt::format("there is no token {}; ids are in [0, {})", *unknown, vocab_size));
}

std::vector<TokenId> EncodeText(const std::string& text, bool add_bos, const Tokenizer& tokenizer) {
  std::vector<TokenId> tokens;
  if (add_bos && tokenizer.add_bos() && tokenizer.bos()) tokens.push_back(*tokenizer.bos());
  const std::vector<TokenId> encoded = tokenizer.Encode(text, Tokenizer::Specials::kPlain);
  tokens.insert(tokens.end(), encoded.begin(), encoded.end());
  return tokens;
}

MaybeError ReadTextPrompt(const std::string& text, const ServedModel& model, int context_tokens_max,
                          const std::string& param, PreparedPrompt* prompt) {
  RETURN_IF_INVALID(CheckBytes(text.size(), context_tokens_max, param));
  if (!IsValidUtf8(text)) return Invalid(param, fmt::format("{} must be valid UTF-8", param));
  prompt->tokens = EncodeText(text, /*add_bos=*/true, *model.tokenizer);
  prompt->text = text;
  return std::nullopt;
}

MaybeError ReadIdPrompt(const std::vector<int64_t>& ids, const ServedModel& model, const std::string& param,
                        PreparedPrompt* prompt) {
  RETURN_IF_INVALID(CheckIds(ids, model.vocab_size, param));
  prompt->tokens.assign(ids.begin(), ids.end());
  prompt->text = ToValidUtf8(model.tokenizer->Decode(prompt->tokens, /*keep_specials=*/true));
  return std::nullopt;
}

MaybeError ReadPrompt(const Prompt& given, const ServedModel& model, int context_tokens_max, const std::string& param,
                      PreparedPrompt* prompt) {
  if (const auto* text = std::get_if<std::string>(&given))
    return ReadTextPrompt(*text, model, context_tokens_max, param, prompt);
  return ReadIdPrompt(std::get<std::vector<int64_t>>(given), model, param, prompt);
}

// Renders a checked conversation. REQUIRES: the model has a chat template.
std::vector<TokenId> RenderChat(ChatInput input, const ServedModel& model, const CallContext& context) {
  input.date = context.date;
  return model.chat_template->Encode(input, *model.tokenizer);
}

}  // namespace

std::variant<ApiError, PreparedCall> PrepareChat(const ChatRequest& request, const ServedModel& model,
                                                 const CallContext& context) {
  PreparedCall call;
  call.chat = true;
  RETURN_IF_INVALID(CheckModel(request.model, model));
  RETURN_IF_INVALID(CheckChatIsPossible(model));
  RETURN_IF_INVALID(ResolveParams(request.params, model, context, &call));
  RETURN_IF_INVALID(CheckMessagesFit(request, context.context_tokens_max));
  ChatInput input;
  RETURN_IF_INVALID(ReadChat(request, &input));
  RETURN_IF_INVALID(CheckToolsFit(input, context.context_tokens_max));
  call.parse_calls = !input.tools.empty();
  PreparedPrompt& prompt = call.prompts.emplace_back();
  prompt.tokens = RenderChat(std::move(input), model, context);
  RETURN_IF_INVALID(FitAnswer(request.params, context, "messages", &prompt));
  RETURN_IF_INVALID(CheckCost(call, context.context_tokens_max));
  return call;
}

std::variant<ApiError, PreparedCall> PrepareCompletion(const CompletionRequest& request, const ServedModel& model,
                                                       const CallContext& context) {
  PreparedCall call;
  call.echo = request.echo;
  RETURN_IF_INVALID(CheckModel(request.model, model));
  RETURN_IF_INVALID(ResolveParams(request.params, model, context, &call));
  RETURN_IF_INVALID(CheckSequences(request.prompts.size(), call.n));
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    const std::string param = request.prompts.size() == 1 ? "prompt" : fmt::format("prompt[{}]", i);
    PreparedPrompt& prompt = call.prompts.emplace_back();
    RETURN_IF_INVALID(ReadPrompt(request.prompts[i], model, context.context_tokens_max, param, &prompt));
    RETURN_IF_INVALID(FitAnswer(request.params, context, param, &prompt));
  }
  RETURN_IF_INVALID(CheckCost(call, context.context_tokens_max));
  return call;
}

std::variant<ApiError, std::vector<TokenId>> TokenizeText(const std::string& model_id, const std::string& text,
                                                          bool add_bos, const ServedModel& model) {
  RETURN_IF_INVALID(CheckModel(model_id, model));
  RETURN_IF_INVALID(CheckBytes(text.size(), model.context_tokens_max, "prompt"));
  if (!IsValidUtf8(text)) return Invalid("prompt", "prompt must be valid UTF-8");
  return EncodeText(text, add_bos, *model.tokenizer);
}

std::variant<ApiError, std::vector<TokenId>> TokenizeMessages(const ChatRequest& request, const ServedModel& model,
                                                              const CallContext& context) {
  RETURN_IF_INVALID(CheckModel(request.model, model));
  RETURN_IF_INVALID(CheckChatIsPossible(model));
  RETURN_IF_INVALID(CheckMessagesFit(request, context.context_tokens_max));
  ChatInput input;
  RETURN_IF_INVALID(ReadChat(request, &input));
  RETURN_IF_INVALID(CheckToolsFit(input, context.context_tokens_max));
  return RenderChat(std::move(input), model, context);
}

std::variant<ApiError, std::string> DetokenizeIds(const std::string& model_id, const std::vector<int64_t>& ids,
                                                  const ServedModel& model) {
  RETURN_IF_INVALID(CheckModel(model_id, model));
  RETURN_IF_INVALID(CheckIds(ids, model.vocab_size, "tokens"));
  const std::vector<TokenId> tokens(ids.begin(), ids.end());
  return ToValidUtf8(model.tokenizer->Decode(tokens, /*keep_specials=*/true));
}

}  // namespace braid
