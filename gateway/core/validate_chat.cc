#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "gateway/core/validate_parts.h"
#include "gateway/json/reader.h"

namespace braid {
namespace {

// Deeper than `levels`? Looks no further than that, so its own recursion is bounded.
bool DeeperThan(const Json& json, int levels) {
  if (!json.is_structured()) return false;
  if (levels == 0) return true;
  return std::ranges::any_of(json, [levels](const Json& child) { return DeeperThan(child, levels - 1); });
}

bool IsText(const Json& json) {
  if (json.is_string()) return IsValidUtf8(json.get_ref<const std::string&>());
  if (!json.is_structured()) return true;
  for (auto it = json.begin(); it != json.end(); ++it)
    if ((json.is_object() && !IsValidUtf8(it.key())) || !IsText(it.value())) return false;
  return true;
}

bool IsName(std::string_view name) {
  constexpr size_t kNameBytesMax = 64;
  const auto allowed = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; };
  return !name.empty() && name.size() <= kNameBytesMax && std::ranges::all_of(name, allowed);
}

MaybeError CheckName(const std::string& name, const std::string& param) {
  if (IsName(name)) return std::nullopt;
  return Invalid(param, "a function's name must have 1 to 64 letters, digits, underscores, dots or dashes");
}

// --- Messages ---

MaybeError CheckText(const std::string& text, const std::string& param) {
  if (IsValidUtf8(text)) return std::nullopt;
  return Invalid(param, fmt::format("{} must be valid UTF-8", param));
}

MaybeError ReadArguments(const std::string& text, const std::string& param, Json* arguments) {
  *arguments = Json::object();
  if (text.empty()) return std::nullopt;  // how several clients spell a call without arguments
  std::variant<ApiError, Json> json = ReadJson(text);
  if (const auto* error = std::get_if<ApiError>(&json))
    return Invalid(param, fmt::format("{} must be the text of a JSON object: {}", param, error->message));
  *arguments = std::get<Json>(std::move(json));
  if (arguments->is_object()) return std::nullopt;
  return Invalid(param, fmt::format("{} must be the text of a JSON object", param));
}

MaybeError ReadCalls(const Message& message, const std::string& where, ChatTurn* turn) {
  if (message.tool_calls.size() > kCallsPerMessageMax)
    return Invalid(where + ".tool_calls", fmt::format("a message may have at most {} tool calls", kCallsPerMessageMax));
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const MessageCall& call = message.tool_calls[i];
    const std::string param = fmt::format("{}.tool_calls[{}]", where, i);
    RETURN_IF_INVALID(CheckText(call.id, param + ".id"));
    RETURN_IF_INVALID(CheckName(call.name, param + ".function.name"));
    ChatCall& read = turn->tool_calls.emplace_back();
    read.name = call.name;
    RETURN_IF_INVALID(ReadArguments(call.arguments, param + ".function.arguments", &read.arguments));
  }
  return std::nullopt;
}

// Fields that only one role has; elsewhere they would be lost without a word.
MaybeError CheckFieldsFitRole(const Message& message, const std::string& role, const std::string& where) {
  if (role != "assistant" && message.reasoning)
    return Invalid(where + ".reasoning", "only an assistant message may have reasoning");
  if (role != "assistant" && !message.tool_calls.empty())
    return Invalid(where + ".tool_calls", "only an assistant message may have tool_calls");
  if (role != "tool" && !message.tool_call_id.empty())
    return Invalid(where + ".tool_call_id", "only a tool message may have a tool_call_id");
  return std::nullopt;
}

MaybeError ReadMessage(const Message& message, const std::string& where, ChatTurn* turn) {
  turn->role = message.role == "developer" ? "system" : message.role;
  if (turn->role != "system" && turn->role != "user" && turn->role != "assistant" && turn->role != "tool")
    return Invalid(where + ".role", "role must be system, developer, user, assistant or tool");
  RETURN_IF_INVALID(CheckFieldsFitRole(message, turn->role, where));
  RETURN_IF_INVALID(CheckText(message.content, where + ".content"));
  RETURN_IF_INVALID(CheckText(message.tool_call_id, where + ".tool_call_id"));
  if (message.reasoning) RETURN_IF_INVALID(CheckText(*message.reasoning, where + ".reasoning"));
  turn->content = message.content;
  turn->thinking = message.reasoning;
  return ReadCalls(message, where, turn);
}

// The place of call `id` among the calls of `message`, or -1.
int CallIndex(const Message& message, const std::string& id) {
  const auto found = std::ranges::find(message.tool_calls, id, &MessageCall::id);
  return found == message.tool_calls.end() ? -1 : static_cast<int>(found - message.tool_calls.begin());
}

// Messages [begin, end) answer the calls of `asker`: brings their turns into the order of the calls.
MaybeError OrderResults(const std::vector<Message>& messages, const Message& asker, size_t begin, size_t end,
                        std::vector<ChatTurn>* turns) {
  if (std::ranges::all_of(asker.tool_calls, &std::string::empty, &MessageCall::id)) return std::nullopt;
  std::vector<std::pair<int, size_t>> order;  // (place of the call, message); results without an id stay where they are
  for (size_t i = begin; i < end; ++i) {
    const std::string& id = messages[i].tool_call_id;
    const int index = id.empty() ? static_cast<int>(i - begin) : CallIndex(asker, id);
    if (index < 0)
      return Invalid(fmt::format("messages[{}].tool_call_id", i),
                     "tool_call_id must be the id of a call of the assistant message before it");
    order.emplace_back(index, i);
  }
  std::ranges::sort(order);
  std::vector<ChatTurn> sorted;
  for (const auto& [index, i] : order) sorted.push_back(std::move((*turns)[i]));
  std::ranges::move(sorted, turns->begin() + static_cast<std::ptrdiff_t>(begin));
  return std::nullopt;
}

MaybeError OrderAllResults(const std::vector<Message>& messages, std::vector<ChatTurn>* turns) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].tool_calls.empty()) continue;
    size_t end = i + 1;
    while (end < messages.size() && messages[end].role == "tool") ++end;
    RETURN_IF_INVALID(OrderResults(messages, messages[i], i + 1, end, turns));
  }
  return std::nullopt;
}

MaybeError ReadMessages(const std::vector<Message>& messages, ChatInput* input) {
  if (messages.empty()) return Invalid("messages", "messages must not be empty");
  input->turns.resize(messages.size());
  for (size_t i = 0; i < messages.size(); ++i)
    RETURN_IF_INVALID(ReadMessage(messages[i], fmt::format("messages[{}]", i), &input->turns[i]));
  return OrderAllResults(messages, &input->turns);
}

// --- Tools ---

MaybeError CheckFunction(const Json& function, const std::string& param, std::set<std::string>* names) {
  if (!function.is_object()) return Invalid(param, fmt::format("{} must be an object", param));
  const auto name = function.find("name");
  if (name == function.end() || !name->is_string()) return Invalid(param + ".name", "a function needs a name");
  RETURN_IF_INVALID(CheckName(name->get_ref<const std::string&>(), param + ".name"));
  if (!names->insert(name->get<std::string>()).second) return Invalid(param + ".name", "two tools have the same name");
  const auto description = function.find("description");
  if (description != function.end() && !description->is_string() && !description->is_null())
    return Invalid(param + ".description", "a function's description must be a string");
  const auto parameters = function.find("parameters");
  if (parameters != function.end() && !parameters->is_object() && !parameters->is_null())
    return Invalid(param + ".parameters", "a function's parameters must be a JSON schema object");
  const auto strict = function.find("strict");
  if (strict != function.end() && !strict->is_null() && *strict != false)
    return Invalid(param + ".strict", "strict is not supported yet: it needs constrained decoding",
                   "unsupported_value");
  return std::nullopt;
}

MaybeError CheckTool(const Json& tool, const std::string& param, std::set<std::string>* names) {
  if (!tool.is_object()) return Invalid(param, fmt::format("{} must be an object", param));
  if (DeeperThan(tool, kJsonDepthMax))
    return Invalid(param, fmt::format("{} is nested deeper than {} levels", param, kJsonDepthMax));
  if (!IsText(tool)) return Invalid(param, fmt::format("{} must be valid UTF-8", param));
  if (tool.value("type", Json()) != "function")
    return Invalid(param + ".type", "the only type of tool is \"function\"");
  return CheckFunction(tool.value("function", Json()), param + ".function", names);
}

MaybeError ReadTools(const ChatRequest& request, ChatInput* input) {
  if (request.tools.size() > kToolsMax)
    return Invalid("tools", fmt::format("tools may have at most {} entries", kToolsMax));
  std::set<std::string> names;
  for (size_t i = 0; i < request.tools.size(); ++i)
    RETURN_IF_INVALID(CheckTool(request.tools[i], fmt::format("tools[{}]", i), &names));
  if (!request.tool_choice.empty() && request.tool_choice != "auto" && request.tool_choice != "none")
    return Invalid(
        "tool_choice",
        "tool_choice must be \"auto\" or \"none\"; forcing a call is not supported yet, it needs constrained "
        "decoding",
        "unsupported_value");
  // A model that must not call is best not told of the tools at all.
  if (request.tool_choice != "none") input->tools = request.tools;
  return std::nullopt;
}

}  // namespace

MaybeError ReadChat(const ChatRequest& request, ChatInput* input) {
  RETURN_IF_INVALID(ReadMessages(request.messages, input));
  return ReadTools(request, input);
}

}  // namespace braid
