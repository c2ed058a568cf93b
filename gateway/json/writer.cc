#include "gateway/json/writer.h"

#include <charconv>
#include <cmath>

namespace braid {
namespace {

constexpr char kHex[] = "0123456789abcdef";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

void AppendEscaped(unsigned char c, std::string* out) {
  switch (c) {
    case '"':
      *out += "\\\"";
      return;
    case '\\':
      *out += "\\\\";
      return;
    case '\n':
      *out += "\\n";
      return;
    case '\r':
      *out += "\\r";
      return;
    case '\t':
      *out += "\\t";
      return;
    default:
      (*out += "\\u00") += {kHex[c >> 4], kHex[c & 15]};
  }
}

bool NeedsEscape(unsigned char c) { return c < 0x20 || c == '"' || c == '\\' || c == 0x7F; }

bool InRange(std::string_view bytes, size_t i, unsigned char low, unsigned char high) {
  const auto c = i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0;
  return low <= c && c <= high;
}

template <typename T>
void AppendNumber(T value, std::string* out) {
  char digits[32];
  out->append(digits, std::to_chars(digits, digits + sizeof(digits), value).ptr);
}

}  // namespace

// Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF.
size_t Utf8CharBytes(std::string_view bytes) {
  if (bytes.empty()) return 0;
  const auto first = static_cast<unsigned char>(bytes[0]);
  const auto tail = [&](size_t i) { return InRange(bytes, i, 0x80, 0xBF); };
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  if (first < 0xE0) return tail(1) ? 2 : 0;
  if (first < 0xF0) {
    const bool second = InRange(bytes, 1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF);
    return second && tail(2) ? 3 : 0;
  }
  const bool second = InRange(bytes, 1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF);
  return second && tail(2) && tail(3) ? 4 : 0;
}

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t n = Utf8CharBytes(bytes);
    if (n == 0) return false;
    bytes.remove_prefix(n);
  }
  return true;
}

JsonWriter& JsonWriter::Key(std::string_view name) {
  String(name);
  out_ += ':';
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::String(std::string_view value) {
  Separate();
  out_ += '"';
  while (!value.empty()) {
    const auto c = static_cast<unsigned char>(value[0]);
    const size_t n = NeedsEscape(c) ? 0 : Utf8CharBytes(value);
    if (n > 0) {
      out_ += value.substr(0, n);
    } else if (c < 0x80) {
      AppendEscaped(c, &out_);
    } else {
      out_ += kReplacement;
    }
    value.remove_prefix(n > 0 ? n : 1);
  }
  out_ += '"';
  return *this;
}

JsonWriter& JsonWriter::Int(int64_t value) {
  Separate();
  AppendNumber(value, &out_);
  return *this;
}

JsonWriter& JsonWriter::Uint(uint64_t value) {
  Separate();
  AppendNumber(value, &out_);
  return *this;
}

JsonWriter& JsonWriter::Float(float value) {
  if (std::isnan(value)) return Null();
  if (value == 0) return Raw(std::signbit(value) ? "-0.0" : "0");  // many parsers take "-0" for an integer
  Separate();
  AppendNumber(std::isinf(value) ? std::copysign(9999.0, value) : static_cast<double>(value), &out_);
  return *this;
}

JsonWriter& JsonWriter::Raw(std::string_view json) {
  Separate();
  out_ += json;
  return *this;
}

void JsonWriter::Separate() {
  if (comma_) out_ += ',';
  comma_ = true;
}

JsonWriter& JsonWriter::Open(char bracket) {
  Separate();
  out_ += bracket;
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::Close(char bracket) {
  out_ += bracket;
  comma_ = true;
  return *this;
}

}  // namespace braid
