#include "model/python_text.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/strings/str_format.h"
#include "model/char_class.h"
#include "model/utf8.h"

namespace braid {
namespace {

using Json = nlohmann::ordered_json;

enum class Style { kJson, kRepr };

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<uint8_t>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

// str.isprintable(): no control, format, unassigned or private character, and no separator but the space.
bool IsPrintable(uint32_t code_point) {
  if (code_point < 0x7F) return code_point >= 0x20;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

void AppendEscaped(uint32_t c, std::string* out) {
  if (c == '\n') {
    *out += "\\n";
  } else if (c == '\r') {
    *out += "\\r";
  } else if (c == '\t') {
    *out += "\\t";
  } else if (c < 0x100) {
    absl::StrAppendFormat(out, "\\x%02x", c);
  } else if (c < 0x10000) {
    absl::StrAppendFormat(out, "\\u%04x", c);
  } else {
    absl::StrAppendFormat(out, "\\U%08x", c);
  }
}

// Single quotes unless the text has some and no double ones.
void AppendRepr(std::string_view text, std::string* out) {
  const bool has = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = has ? '"' : '\'';
  out->push_back(quote);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = DecodeUtf8(text, at);
    if (step.code_point == static_cast<uint32_t>(quote) || step.code_point == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(step.code_point));
    } else if (IsPrintable(step.code_point)) {
      AppendUtf8(step.code_point, out);
    } else {
      AppendEscaped(step.code_point, out);
    }
    at += step.bytes;
  }
  out->push_back(quote);
}

void AppendString(std::string_view text, Style style, std::string* out) {
  style == Style::kJson ? AppendJsonString(text, out) : AppendRepr(text, out);
}

// repr(float): the shortest digits that read back the same; an exponent below 1e-4 and from 1e16.
void AppendFloat(double value, Style style, std::string* out) {
  if (std::isnan(value) || std::isinf(value)) {
    const bool json = style == Style::kJson;
    if (std::signbit(value) && std::isinf(value)) out->push_back('-');
    *out += std::isnan(value) ? (json ? "NaN" : "nan") : (json ? "Infinity" : "inf");
    return;
  }
  const double magnitude = std::fabs(value);
  const bool scientific = magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  char buffer[64];
  const auto format = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, format).ptr;
  const std::string_view digits(buffer, end - buffer);
  *out += digits;
  if (!scientific && digits.find('.') == std::string_view::npos) *out += ".0";
}

void AppendScalar(const Json& value, Style style, std::string* out) {
  const bool json = style == Style::kJson;
  switch (value.type()) {
    case Json::value_t::string:
      AppendString(value.get_ref<const std::string&>(), style, out);
      break;
    case Json::value_t::boolean:
      *out += value.get<bool>() ? (json ? "true" : "True") : (json ? "false" : "False");
      break;
    case Json::value_t::number_integer:
      *out += std::to_string(value.get<int64_t>());
      break;
    case Json::value_t::number_unsigned:
      *out += std::to_string(value.get<uint64_t>());
      break;
    case Json::value_t::number_float:
      AppendFloat(value.get<double>(), style, out);
      break;
    default:
      *out += json ? "null" : "None";
  }
}

// A container being written, and how far it has come.
struct Open {
  const Json* container;
  Json::const_iterator next;
};

std::string Write(const Json& root, Style style) {
  std::string out;
  std::vector<Open> open;
  const auto begin = [&](const Json& value) {
    if (value.is_structured()) {
      out += value.is_array() ? '[' : '{';
      open.push_back({&value, value.begin()});
    } else {
      AppendScalar(value, style, &out);
    }
  };
  begin(root);
  while (!open.empty()) {
    auto& [container, next] = open.back();
    if (next == container->end()) {
      out += container->is_array() ? ']' : '}';
      open.pop_back();
      continue;
    }
    if (next != container->begin()) out += ", ";
    if (container->is_object()) {
      AppendString(next.key(), style, &out);
      out += ": ";
    }
    begin(*next++);  // may move `open`: neither reference is used after this
  }
  return out;
}

// What str.strip() takes away: White_Space and four separators of ASCII.
bool IsStripped(std::string_view text, size_t at) {
  const uint8_t byte = static_cast<uint8_t>(text[at]);
  return (byte >= 0x1C && byte <= 0x1F) || IsSpace(CharAt(text, at).type);
}

}  // namespace

std::string ToPythonJson(const Json& value) { return Write(value, Style::kJson); }

std::string ToPythonStr(const Json& value) {
  return value.is_string() ? value.get<std::string>() : Write(value, Style::kRepr);
}

std::string_view PythonStrip(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size() && IsStripped(text, begin)) begin += CharAt(text, begin).bytes;
  text.remove_prefix(begin);
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (!IsStripped(text, last) || last + CharAt(text, last).bytes != text.size()) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

}  // namespace braid
