#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace braid {

struct ModelCall {
  std::string name;
  std::string arguments;  // text of one JSON object, always valid
  friend bool operator==(const ModelCall&, const ModelCall&) = default;
};

// What stands between <|tool_call_start|> and <|tool_call_end|>: calls, and text that is none, as it was written.
using BlockItem = std::variant<ModelCall, std::string>;

// Reads a block, in either form and mixed:
//
//   [get_weather(city="Oslo", days=3), maps.route(to=["A", 'B'])]
//   [{"name": "get_weather", "arguments": {"city": "Oslo"}}]          (the list's brackets may be missing here)
//
// Values are Python's literals and JSON's, freely mixed; tuples and sets become arrays, `**{...}` is merged. Strings in
// single quotes may hold single quotes, backslashes and line breaks as they are (literal.h). Anything may be an
// argument name, also Python's reserved words. Refused are positional arguments, an argument given twice, expressions,
// bytes and f-strings, and nesting beyond 64.
//
// A refused item is given back as text and its siblings are read on; a body without brackets is text as a whole; an
// empty list gives nothing. With `complete` false the block was cut off, and an item that no "," or "]" follows is
// text. Calls beyond the 128th are text.
std::vector<BlockItem> ParseCallBlock(std::string_view body, bool complete);

}  // namespace braid
