#include "gateway/core/literal.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "model/utf8.h"

namespace braid {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsQuote(char c) { return c == '\'' || c == '"'; }
bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsNameCharacter(char c) {
  return IsLetter(c) || IsDigit(c) || (c != '\0' && std::string_view("_-.:$@/").find(c) != std::string_view::npos) ||
         static_cast<uint8_t>(c) >= 0x80;
}

size_t SkipBlanks(std::string_view text, size_t at) {
  while (at < text.size() && IsBlank(text[at])) ++at;
  return at;
}

char CharOrNul(std::string_view text, size_t at) { return at < text.size() ? text[at] : '\0'; }

size_t NameEnd(std::string_view text, size_t at) {
  while (at < text.size() && IsNameCharacter(text[at])) ++at;
  return at;
}

// The JSON spelling of Python's and JSON's named constants; empty for any other word.
std::string_view Constant(std::string_view word) {
  if (word == "True" || word == "true") return "true";
  if (word == "False" || word == "false") return "false";
  if (word == "None" || word == "null") return "null";
  return "";
}

bool BeginsValue(std::string_view text, size_t at) {
  const char c = CharOrNul(text, at);
  if (IsQuote(c) || IsDigit(c) || (c != '\0' && std::string_view("+-.[{(").find(c) != std::string_view::npos))
    return true;
  size_t end = at;
  while (IsLetter(CharOrNul(text, end))) ++end;
  return !Constant(text.substr(at, end - at)).empty();
}

// `name =` (but not `==`), `**` or `)`: what may stand behind a comma between arguments.
bool BeginsArgument(std::string_view text, size_t at) {
  const char c = CharOrNul(text, at);
  if (c == ')' || (c == '*' && CharOrNul(text, at + 1) == '*')) return true;
  const size_t end = NameEnd(text, at);
  const size_t equals = SkipBlanks(text, end);
  return end > at && CharOrNul(text, equals) == '=' && CharOrNul(text, equals + 1) != '=';
}

// The `)` at `at` ends a call: the list goes on or ends behind it.
bool EndsCall(std::string_view text, size_t at) {
  const char c = CharOrNul(text, SkipBlanks(text, at + 1));
  return c == '\0' || c == ',' || c == ']';
}

// Digits with single underscores between them, as Python allows.
std::string TakeDigits(std::string_view text, size_t* at) {
  std::string digits;
  for (; *at < text.size(); ++*at) {
    const bool joint = text[*at] == '_' && !digits.empty() && IsDigit(CharOrNul(text, *at + 1));
    if (IsDigit(text[*at])) {
      digits.push_back(text[*at]);
    } else if (!joint) {
      break;
    }
  }
  return digits;
}

// What shows that a number or a named constant is only the beginning of something else.
bool ContinuesWord(char c) {
  return IsLetter(c) || IsDigit(c) || IsQuote(c) || c == '_' || c == '.' || static_cast<uint8_t>(c) >= 0x80;
}

}  // namespace

void LiteralReader::SkipSpace() { at_ = SkipBlanks(text_, at_); }

bool LiteralReader::Take(char c) {
  SkipSpace();
  if (Peek() != c) return false;
  if (!AtEnd()) ++at_;
  return true;
}

std::string_view LiteralReader::ReadName() {
  const size_t begin = at_;
  at_ = NameEnd(text_, at_);
  return text_.substr(begin, at_ - begin);
}

bool LiteralReader::CanFollow(Place place, size_t at) const {
  at = SkipBlanks(text_, at);
  const char c = CharOrNul(text_, at);
  const size_t after_comma = SkipBlanks(text_, at + 1);
  const char next = CharOrNul(text_, after_comma);
  const auto element = [&] {
    if (c != ',') return c == ']' || c == ')' || c == '}';
    return next == ']' || next == ')' || next == '}' || BeginsValue(text_, after_comma);
  };
  switch (place) {
    case Place::kArgument:
      return c == ')' ? EndsCall(text_, at) : c == ',' && BeginsArgument(text_, after_comma);
    case Place::kElement:
      return element();
    case Place::kKey:
      return c == ':';
    case Place::kKeyOrElement:
      return c == ':' || element();
    case Place::kMember:
      return c == '}' || (c == ',' && (next == '}' || BeginsValue(text_, after_comma)));
  }
  return false;
}

bool LiteralReader::Value(Place place, int depth, std::string* json) {
  if (depth > kDepthMax) return false;
  SkipSpace();
  const char c = Peek();
  if (IsQuote(c)) return String(place, json);
  if (IsDigit(c) || c == '+' || c == '-' || c == '.') return Number(json);
  if (c == '[') {
    ++at_;
    return Elements(']', depth, json);
  }
  if (c == '(') return Tuple(depth, json);
  if (c == '{') return Braces(depth, json);
  return Word(place, json);
}

// A named constant, or the prefix of a string: u'...' is a plain one and r'...' has no escapes. f'' and b'' have no
// counterpart in JSON.
bool LiteralReader::Word(Place place, std::string* json) {
  const size_t begin = at_;
  while (IsLetter(Peek())) ++at_;
  const std::string_view word = text_.substr(begin, at_ - begin);
  if (IsQuote(Peek())) {
    if (word == "u" || word == "U") return String(place, json);
    std::string value;
    if ((word != "r" && word != "R") || !RawString(place, &value)) return false;
    *json += ToJsonString(value);
    return true;
  }
  const std::string_view constant = ContinuesWord(Peek()) ? "" : Constant(word);
  *json += constant;
  return !constant.empty();
}

bool LiteralReader::RadixNumber(bool negative, std::string* json) {
  const char letter = static_cast<char>(text_[at_ + 1] | 0x20);
  const int radix = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
  uint64_t value = 0;
  const char* end = text_.data() + text_.size();
  const auto [rest, error] = std::from_chars(text_.data() + at_ + 2, end, value, radix);
  if (error != std::errc()) return false;
  at_ = static_cast<size_t>(rest - text_.data());
  *json += (negative ? "-" : "") + std::to_string(value);
  return !ContinuesWord(Peek());
}

// Python's numbers are wider than JSON's: a plus sign, leading zeros, underscores, `1.`, `.5`. Digits are kept, however
// many. What JSON readers would take for infinity is passed on as a string: a wrong type is seen, a wrong value is not.
bool LiteralReader::Number(std::string* json) {
  const size_t begin = at_;
  const bool negative = Peek() == '-';
  if (Peek() == '+' || negative) ++at_;
  const char second = static_cast<char>(CharOrNul(text_, at_ + 1) | 0x20);
  if (Peek() == '0' && (second == 'x' || second == 'o' || second == 'b')) return RadixNumber(negative, json);

  const std::string whole = TakeDigits(text_, &at_);
  std::string number = negative ? "-" : "";
  const size_t nonzero = whole.find_first_not_of('0');
  number += nonzero == std::string::npos ? "0" : whole.substr(nonzero);
  bool is_float = false;
  std::string fraction;
  if (Peek() == '.') {
    ++at_;
    is_float = true;
    fraction = TakeDigits(text_, &at_);
    number += "." + (fraction.empty() ? "0" : fraction);
  }
  if (whole.empty() && fraction.empty()) return false;
  if (Peek() == 'e' || Peek() == 'E') {
    ++at_;
    is_float = true;
    number += 'e';
    if (Peek() == '+' || Peek() == '-') number += text_[at_++];
    const std::string exponent = TakeDigits(text_, &at_);
    if (exponent.empty()) return false;
    number += exponent;
  }
  if (ContinuesWord(Peek())) return false;
  const bool infinite = is_float && std::isinf(std::strtod(number.c_str(), nullptr));
  *json += infinite ? ToJsonString(text_.substr(begin, at_ - begin)) : number;
  return true;
}

// Elements up to `close`, which is taken as well; at_ stands behind the opening bracket.
bool LiteralReader::Elements(char close, int depth, std::string* json) {
  *json += '[';
  for (bool first = true; !Take(close); first = false) {
    if (!first) {
      if (!Take(',')) return false;
      if (Take(close)) break;
      *json += ", ";
    }
    if (!Value(Place::kElement, depth + 1, json)) return false;
  }
  *json += ']';
  return true;
}

// (1, 2), (1,) and () are tuples, hence arrays; (1) is 1 in parentheses.
bool LiteralReader::Tuple(int depth, std::string* json) {
  ++at_;
  if (Take(')')) {
    *json += "[]";
    return true;
  }
  std::string first;
  if (!Value(Place::kElement, depth + 1, &first)) return false;
  if (Take(')')) {
    *json += first;
    return true;
  }
  if (!Take(',')) return false;
  std::string rest;
  if (!Elements(')', depth, &rest)) return false;
  *json += "[" + first + (rest == "[]" ? "" : ", ") + rest.substr(1);
  return true;
}

// A dict or a set; the first item's colon tells.
bool LiteralReader::Braces(int depth, std::string* json) {
  ++at_;
  if (Take('}')) {
    *json += "{}";
    return true;
  }
  std::string first;
  if (!Value(Place::kKeyOrElement, depth + 1, &first)) return false;
  SkipSpace();
  if (Peek() == ':') {
    JsonMembers members;
    if (!Members(depth, std::move(first), &members)) return false;
    *json += members.ToJson();
    return true;
  }
  std::string rest = "[]";
  if (!Take('}')) {
    if (!Take(',')) return false;
    rest.clear();
    if (!Elements('}', depth, &rest)) return false;
  }
  *json += "[" + first + (rest == "[]" ? "" : ", ") + rest.substr(1);
  return true;
}

// A dict's members from the colon of the first on, `}` included. Of two of one name the last counts.
bool LiteralReader::Members(int depth, std::string key, JsonMembers* members) {
  for (;;) {
    // A key that is no string becomes its own spelling, as json.dumps has it; containers are no keys.
    if (key[0] == '[' || key[0] == '{') return false;
    std::string name = key[0] == '"' ? nlohmann::json::parse(key).get<std::string>() : key;
    std::string value;
    if (!Take(':') || !Value(Place::kMember, depth + 1, &value)) return false;
    members->Set(std::move(name), std::move(value));
    if (Take('}')) return true;
    if (!Take(',')) return false;
    if (Take('}')) return true;
    key.clear();
    if (!Value(Place::kKey, depth + 1, &key)) return false;
  }
}

bool LiteralReader::ReadDict(JsonMembers* members) {
  if (!Take('{')) return false;
  if (Take('}')) return true;
  std::string key;
  return Value(Place::kKey, 1, &key) && Members(0, std::move(key), members);
}

bool LiteralReader::String(Place place, std::string* json) {
  const size_t begin = at_;
  std::string value;
  if (!PythonStrings(place, &value)) {
    at_ = begin;
    value.clear();
    if (!RawString(place, &value)) return false;
  }
  *json += ToJsonString(value);
  return true;
}

// Python strings with their escapes; several in a row are one.
bool LiteralReader::PythonStrings(Place place, std::string* value) {
  while (IsQuote(Peek())) {
    if (!PythonString(value)) return false;
    if (CanFollow(place, at_)) return true;
    SkipSpace();
  }
  return false;
}

// Double-quoted ones may have line breaks, as JSON's careless writers make them; in single quotes a line break shows
// that the string is meant raw.
bool LiteralReader::PythonString(std::string* value) {
  const char quote = Peek();
  const std::string triple(3, quote);
  const bool is_triple = text_.substr(at_, 3) == triple;
  const std::string_view close = std::string_view(triple).substr(0, is_triple ? 3 : 1);
  at_ += close.size();
  while (text_.substr(at_, close.size()) != close) {
    if (AtEnd()) return false;
    if (Peek() == '\n' && quote == '\'' && !is_triple) return false;
    if (Peek() != '\\') {
      value->push_back(text_[at_++]);
    } else if (!Escape(quote, value)) {
      return false;
    }
  }
  at_ += close.size();
  return true;
}

namespace {

// `count` hexadecimal digits at `at`; -1 if there are fewer.
int64_t Hex(std::string_view text, size_t at, size_t count) {
  const std::string_view digits = text.substr(std::min(at, text.size()), count);
  if (digits.size() != count) return -1;
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + count, value, 16);
  return error == std::errc() && end == digits.data() + count ? int64_t{value} : -1;
}

bool IsHighSurrogate(int64_t c) { return c >= 0xD800 && c < 0xDC00; }
bool IsLowSurrogate(int64_t c) { return c >= 0xDC00 && c < 0xE000; }

}  // namespace

// One escape of Python, or of JSON in double quotes. False where Python sees an error.
bool LiteralReader::Escape(char quote, std::string* value) {
  const char c = CharOrNul(text_, at_ + 1);
  if (at_ + 1 >= text_.size()) return false;
  at_ += 2;
  constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
  if (const size_t i = kNames.find(c); i != std::string_view::npos) {
    value->push_back(kValues[i]);
  } else if (c == '\n') {  // a continued line
  } else if (c == '/' && quote == '"') {
    value->push_back('/');
  } else if (c == 'x' || c == 'u' || c == 'U') {
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    int64_t code_point = Hex(text_, at_, digits);
    if (code_point < 0 || code_point > 0x10FFFF) return false;
    at_ += digits;
    if (IsHighSurrogate(code_point) && text_.substr(at_, 2) == "\\u") {  // JSON's pairs
      if (const int64_t low = Hex(text_, at_ + 2, 4); IsLowSurrogate(low)) {
        code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
        at_ += 6;
      }
    }
    AppendUtf8(static_cast<uint32_t>(code_point), value);
  } else if (c >= '0' && c <= '7') {
    uint32_t code_point = static_cast<uint32_t>(c - '0');
    for (int i = 0; i < 2 && Peek() >= '0' && Peek() <= '7'; ++i) code_point = code_point * 8 + (text_[at_++] - '0');
    AppendUtf8(code_point, value);
  } else if (c == 'N' && Peek() == '{') {
    return false;  // names of characters: we have no table of them
  } else {
    value->push_back('\\');
    value->push_back(c);
  }
  return true;
}

// Up to the first quote after which something that may follow does; all between stands for itself.
bool LiteralReader::RawString(Place place, std::string* value) {
  const char quote = Peek();
  const size_t begin = at_ + 1;
  for (size_t end = text_.find(quote, begin); end != std::string_view::npos; end = text_.find(quote, end + 1)) {
    if (!CanFollow(place, end + 1)) continue;
    value->assign(text_.substr(begin, end - begin));
    at_ = end + 1;
    return true;
  }
  return false;
}

}  // namespace braid
