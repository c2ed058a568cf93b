#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace braid {

inline constexpr uint32_t kReplacementCharacter = 0xFFFD;

// One step through UTF-8. What is not a character is taken in the longest runs that could have begun one (Unicode's
// "maximal subpart", as Python's decoder does): each such run stands for one U+FFFD.
struct Utf8Step {
  enum class Kind { kCharacter, kInvalid, kUnfinished };  // unfinished: the text ended where more bytes could have come
  Kind kind = Kind::kCharacter;
  uint32_t code_point = 0;  // kReplacementCharacter unless kCharacter
  int bytes = 0;            // 1 to 4
};
// REQUIRES: at < text.size().
Utf8Step DecodeUtf8(std::string_view text, size_t at);

// REQUIRES: code_point <= 0x10FFFF. Surrogates become U+FFFD.
void AppendUtf8(uint32_t code_point, std::string* out);

// Replaces what is not UTF-8 by U+FFFD, as Python's errors="replace" does.
std::string ToValidUtf8(std::string_view bytes);
bool IsValidUtf8(std::string_view bytes);

// Turns bytes into text as they come and never splits a character: bytes of an unfinished one wait for the rest; bytes
// that can no longer become one turn into U+FFFD at once. A pure fold over the bytes.
class Utf8Assembler {
 public:
  std::string Push(std::string_view bytes);
  std::string Finish();  // what was still waiting, as U+FFFD

 private:
  std::string pending_;  // at most 3 bytes
};

}  // namespace braid
