#include "gateway/openai/messages.h"

#include <optional>
#include <string>
#include <string_view>

namespace braid {
namespace {

struct TextPart {
  std::string type;
  std::optional<std::string> text;
};
constexpr JsonField<TextPart> kTextPartFields[] = {
    {"type", [](const JsonCursor& v, TextPart* p) { return v.Read(&p->type); }},
    {"text", [](const JsonCursor& v, TextPart* p) { return v.Read(&p->text); }},
};

// The type first: "image_url" is better news than "unknown field 'image_url'".
bool CheckPartType(const JsonCursor& part) {
  if (!part.IsObject()) return false;
  const auto type = part.value().find("type");
  if (type == part.value().end()) return part.Missing("type");
  const JsonCursor cursor = part.Member("type", *type);
  std::string name;
  if (!cursor.Read(&name)) return false;
  return name == "text" || cursor.Fail("unsupported_value", "must be \"text\": this model reads text only");
}

bool AppendPart(const JsonCursor& value, std::string* content) {
  TextPart part;
  if (!CheckPartType(value) || !ReadObject<TextPart>(value, kTextPartFields, &part)) return false;
  if (!part.text) return value.Missing("text");
  *content += *part.text;
  return true;
}

bool ReadContent(const JsonCursor& value, std::string* content) {
  if (value.value().is_string()) return value.Read(content);
  if (!value.value().is_array()) return value.WrongType("a string, null or an array of text parts");
  return value.EachElement([content](const JsonCursor& part) { return AppendPart(part, content); });
}

struct CallFields {
  std::optional<std::string> id, name, arguments;
  bool has_function = false;
};
constexpr JsonField<CallFields> kFunctionFields[] = {
    {"name", [](const JsonCursor& v, CallFields* c) { return v.Read(&c->name); }},
    {"arguments", [](const JsonCursor& v, CallFields* c) { return v.Read(&c->arguments); }},
};
constexpr JsonField<CallFields> kCallFields[] = {
    {"id", [](const JsonCursor& v, CallFields* c) { return v.Read(&c->id); }},
    {"type", [](const JsonCursor& v, CallFields*) { return v.Only({"function"}); }},
    {"index",  // left over when a client kept the deltas of a stream
     [](const JsonCursor& v, CallFields*) {
       int64_t index;
       return v.Read(&index);
     }},
    {"function",
     [](const JsonCursor& v, CallFields* c) {
       c->has_function = true;
       if (!ReadObject<CallFields>(v, kFunctionFields, c)) return false;
       if (!c->name) return v.Missing("name");
       return c->arguments.has_value() || v.Missing("arguments");
     }},
};

bool ReadToolCall(const JsonCursor& value, MessageCall* out) {
  CallFields fields;
  if (!ReadObject<CallFields>(value, kCallFields, &fields)) return false;
  if (!fields.has_function) return value.Missing("function");
  *out = {.id = fields.id.value_or(""), .name = *fields.name, .arguments = *fields.arguments};
  return true;
}

struct MessageFields {
  Message message;
  std::optional<std::string> role, name;
};

// DeepSeek's name and the newer one; clients that send both send the same text twice.
bool ReadReasoning(const JsonCursor& value, MessageFields* fields) {
  std::string text;
  if (!value.Read(&text)) return false;
  std::optional<std::string>& reasoning = fields->message.reasoning;
  if (reasoning && *reasoning != text)
    return value.Fail("invalid_value", "differs from its other spelling; send 'reasoning_content' or 'reasoning'");
  reasoning = std::move(text);
  return true;
}

bool ReadToolCalls(const JsonCursor& value, MessageFields* fields) {
  return value.EachElement(
      [fields](const JsonCursor& call) { return ReadToolCall(call, &fields->message.tool_calls.emplace_back()); });
}

constexpr JsonField<MessageFields> kMessageFields[] = {
    {"role", [](const JsonCursor& v, MessageFields* f) { return v.Read(&f->role); }},
    {"content", [](const JsonCursor& v, MessageFields* f) { return ReadContent(v, &f->message.content); }},
    {"reasoning_content", ReadReasoning},
    {"reasoning", ReadReasoning},
    {"tool_calls", ReadToolCalls},
    {"tool_call_id", [](const JsonCursor& v, MessageFields* f) { return v.Read(&f->message.tool_call_id); }},
    {"name", [](const JsonCursor& v, MessageFields* f) { return v.Read(&f->name); }},
    // What the SDK's own message objects carry when they are sent back; anything but their empty value would be lost.
    {"refusal", [](const JsonCursor& v, MessageFields*) { return v.Only({nullptr}); }},
    {"annotations", [](const JsonCursor& v, MessageFields*) { return v.Only({Json::array()}); }},
    {"audio", [](const JsonCursor& v, MessageFields*) { return v.Only({nullptr}); }},
    {"function_call", [](const JsonCursor& v, MessageFields*) { return v.Only({nullptr}); }},
};

bool ReadMessage(const JsonCursor& value, Message* out) {
  MessageFields fields;
  if (!ReadObject<MessageFields>(value, kMessageFields, &fields)) return false;
  if (!fields.role) return value.Missing("role");
  // A tool result's name only repeats what tool_call_id says. Elsewhere it would tell speakers apart, which templates
  // do not.
  if (fields.name && *fields.role != "tool")
    return value.FailMember("name", "unsupported_value", "is only accepted on tool messages");
  *out = std::move(fields.message);
  out->role = *std::move(fields.role);
  return true;
}

}  // namespace

bool ReadMessages(const JsonCursor& value, std::vector<Message>* out) {
  return value.EachElement([out](const JsonCursor& message) { return ReadMessage(message, &out->emplace_back()); });
}

bool ReadTools(const JsonCursor& value, std::vector<Json>* out) {
  return value.EachElement([out](const JsonCursor& tool) {
    if (!tool.IsObject()) return false;
    out->push_back(tool.value());
    return true;
  });
}

}  // namespace braid
