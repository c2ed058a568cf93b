#include "gateway/core/call_syntax.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "gateway/core/literal.h"

namespace braid {
namespace {

using Place = LiteralReader::Place;

// An item can cost as much as the body is long (an unclosed string is looked for to the end); this bounds the product.
constexpr int kItemsMax = 128;
constexpr size_t kNameBytesMax = 256;

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// One argument, `name=value` or `**{...}`.
bool ReadArgument(LiteralReader* reader, JsonMembers* arguments) {
  reader->SkipSpace();
  if (reader->Take('*')) {
    JsonMembers merged;
    if (reader->Peek() != '*' || !reader->Take('*') || !reader->ReadDict(&merged)) return false;
    for (const auto& [name, value] : merged.all()) {
      if (!arguments->Add(name, value)) return false;
    }
    return true;
  }
  std::string name(reader->ReadName());
  std::string value;
  return !name.empty() && reader->Take('=') && reader->Peek() != '=' && reader->ReadValue(Place::kArgument, &value) &&
         arguments->Add(std::move(name), std::move(value));
}

// name(argument, ...)
std::optional<ModelCall> ReadPythonicCall(LiteralReader* reader) {
  ModelCall call;
  call.name = reader->ReadName();
  if (call.name.empty() || call.name.size() > kNameBytesMax || !reader->Take('(')) return std::nullopt;
  JsonMembers arguments;
  for (bool first = true; !reader->Take(')'); first = false) {
    if (!first) {
      if (!reader->Take(',')) return std::nullopt;
      if (reader->Take(')')) break;
    }
    if (!ReadArgument(reader, &arguments)) return std::nullopt;
  }
  call.arguments = arguments.ToJson();
  return call;
}

std::optional<std::string> DecodeString(const std::string* json) {
  if (json == nullptr || json->front() != '"') return std::nullopt;
  return nlohmann::json::parse(*json).get<std::string>();
}

// The arguments of a JSON call: an object, or the text of one, or nothing.
std::optional<std::string> ObjectOf(const std::string* json) {
  if (json == nullptr || *json == "null") return "{}";
  if (json->front() == '{') return *json;
  const std::optional<std::string> text = DecodeString(json);
  if (!text) return std::nullopt;
  LiteralReader reader(*text);
  JsonMembers members;
  if (!reader.ReadDict(&members)) return std::nullopt;
  reader.SkipSpace();
  return reader.AtEnd() ? std::optional(members.ToJson()) : std::nullopt;
}

// {"name": ..., "arguments": ...}, which may be wrapped as {"type": "function", "function": {...}}.
std::optional<ModelCall> ReadJsonCall(LiteralReader* reader) {
  JsonMembers outer, inner;
  if (!reader->ReadDict(&outer)) return std::nullopt;
  const std::string* function = outer.Find("function");
  if (function != nullptr) {
    LiteralReader inside(*function);
    if (!inside.ReadDict(&inner)) return std::nullopt;
  }
  const JsonMembers& members = function != nullptr ? inner : outer;
  const std::optional<std::string> name = DecodeString(members.Find("name"));
  const std::string* arguments = members.Find("arguments");
  const auto object = ObjectOf(arguments != nullptr ? arguments : members.Find("parameters"));
  if (!name || name->empty() || name->size() > kNameBytesMax || !object) return std::nullopt;
  return ModelCall{*name, *object};
}

bool BeginsItem(std::string_view text, size_t at) {
  LiteralReader reader(text, at);
  reader.SkipSpace();
  if (reader.Peek() == '{') return true;
  return !reader.ReadName().empty() && reader.Take('(');
}

// The end of the string whose opening quote is at `at`, as well as one can tell without knowing its place; npos if
// none.
size_t StringEnd(std::string_view text, size_t at) {
  for (size_t end = text.find(text[at], at + 1); end != std::string_view::npos; end = text.find(text[at], end + 1)) {
    LiteralReader after(text, end + 1);
    after.SkipSpace();
    if (after.AtEnd() || std::string_view(",)]}:").find(after.Peek()) != std::string_view::npos) return end + 1;
  }
  return std::string_view::npos;
}

// Where a refused item ends: before a comma outside all brackets and strings that an item follows, or before the list's
// closing bracket. Text inside a string never becomes a call; if that cannot be told, the rest is lost.
size_t RefusedEnd(std::string_view text, size_t at) {
  int depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '\'' || c == '"') {
      at = StringEnd(text, at);
      if (at == std::string_view::npos) return text.size();
      continue;
    }
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (depth == 0 && (c == ']' || (c == ',' && BeginsItem(text, at + 1)))) return at;
    if ((c == ')' || c == ']' || c == '}') && depth > 0) --depth;
    ++at;
  }
  return at;
}

class BlockReader {
 public:
  BlockReader(std::string_view body, bool complete) : body_(body), reader_(body), complete_(complete) {}

  std::vector<BlockItem> Read() {
    const bool list = reader_.Take('[');
    reader_.SkipSpace();
    if (!list && reader_.Peek() != '{') {
      GiveBack(0, body_.size());
      return std::move(items_);
    }
    for (int count = 0; !AtClose(list); ++count) {
      if (count == kItemsMax) {
        GiveBack(reader_.at(), body_.size());
        return std::move(items_);
      }
      Item();
      reader_.Take(',');
    }
    GiveBack(reader_.at(), body_.size());
    return std::move(items_);
  }

 private:
  bool AtClose(bool list) {
    reader_.SkipSpace();
    return reader_.AtEnd() || (list && reader_.Take(']'));
  }

  void Item() {
    const size_t begin = reader_.at();
    std::optional<ModelCall> call = reader_.Peek() == '{' ? ReadJsonCall(&reader_) : ReadPythonicCall(&reader_);
    if (call && EndsItem()) {
      items_.push_back(*std::move(call));
      return;
    }
    // At least one character, so that a stray bracket cannot hold us up.
    const size_t end = std::max(RefusedEnd(body_, begin), begin + 1);
    GiveBack(begin, end);
    reader_ = LiteralReader(body_, end);
  }

  // In a JSON sequence without brackets objects may follow each other with nothing but space between.
  bool EndsItem() {
    reader_.SkipSpace();
    if (reader_.AtEnd()) return complete_;
    const char c = reader_.Peek();
    return c == ',' || c == ']' || c == '{';
  }

  void GiveBack(size_t begin, size_t end) {
    const std::string_view text = Trim(body_.substr(begin, end - begin));
    if (!text.empty()) items_.emplace_back(std::string(text));
  }

  std::string_view body_;
  LiteralReader reader_;
  const bool complete_;
  std::vector<BlockItem> items_;
};

}  // namespace

std::vector<BlockItem> ParseCallBlock(std::string_view body, bool complete) {
  return BlockReader(body, complete).Read();
}

}  // namespace braid
