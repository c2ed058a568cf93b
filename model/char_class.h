#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace braid {

// What the regular expressions of pre-tokenizers distinguish. Agrees with Hugging Face's `tokenizers` 0.23 (Unicode 16)
// on every code point; \s is the sum of kNewline and kSpace.
enum class CharClass : uint8_t {
  kEnd,      // past the end of the text
  kLetter,   // \p{L}
  kNumber,   // \p{N}
  kNewline,  // \r and \n
  kSpace,    // the other 23 characters with the property White_Space
  kOther,    // everything else, and bytes that are not UTF-8
};

struct Char {
  CharClass type = CharClass::kEnd;
  int bytes = 0;  // 0 at the end
};

CharClass ClassOf(uint32_t code_point);

constexpr std::array<CharClass, 128> MakeAsciiClasses() {
  std::array<CharClass, 128> classes;
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool number = c >= '0' && c <= '9';
    const bool newline = c == '\r' || c == '\n';
    const bool space = c == ' ' || c == '\t' || c == '\v' || c == '\f';
    classes[c] = letter    ? CharClass::kLetter
                 : number  ? CharClass::kNumber
                 : newline ? CharClass::kNewline
                 : space   ? CharClass::kSpace
                           : CharClass::kOther;
  }
  return classes;
}
inline constexpr std::array<CharClass, 128> kAsciiClasses = MakeAsciiClasses();

// REQUIRES: at < text.size().
Char DecodedCharAt(std::string_view text, size_t at);
inline Char CharAt(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const auto byte = static_cast<uint8_t>(text[at]);
  return byte < 0x80 ? Char{kAsciiClasses[byte], 1} : DecodedCharAt(text, at);
}

inline bool IsSpace(CharClass type) { return type == CharClass::kSpace || type == CharClass::kNewline; }
// \w: letters, marks, decimal digits, connectors and what else is alphabetic.
bool IsWordCharacter(uint32_t code_point);

}  // namespace braid
