#pragma once

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
Char CharAt(std::string_view text, size_t at);

inline bool IsSpace(CharClass type) { return type == CharClass::kSpace || type == CharClass::kNewline; }
// \w: letters, marks, decimal digits, connectors and what else is alphabetic.
bool IsWordCharacter(uint32_t code_point);

}  // namespace braid
