// The patterns, alternatives in order of preference:
//
//   GPT-2     's|'t|'re|'ve|'m|'ll|'d                      (as written)
//             | ?\p{L}+  | ?\p{N}+  | ?[^\s\p{L}\p{N}]+
//             |\s+(?!\S) |\s+
//
//   Llama 3   (?i:'s|'t|'re|'ve|'m|'ll|'d)                 (in any case)
//             |[^\r\n\p{L}\p{N}]?\p{L}+ |\p{N}{1,3}
//             | ?[^\s\p{L}\p{N}]+[\r\n]*
//             |\s*[\r\n]+ |\s+(?!\S) |\s+
//
//   Qwen 2    Llama 3's with single digits (\p{N})
//   LFM2      Llama 3's; LFM2.5 spells the same language a little differently

#include "model/pretokenizer.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "model/char_class.h"

namespace braid {
namespace {

// The end of the run of `type` that begins at `at`; at most `count` characters.
size_t RunEnd(std::string_view text, size_t at, CharClass type, int count = -1) {
  for (; count != 0; --count) {
    const Char c = CharAt(text, at);
    if (c.type != type) break;
    at += c.bytes;
  }
  return at;
}

static_assert(std::endian::native == std::endian::little);  // the first byte is the lowest
constexpr uint64_t kEach = 0x0101010101010101;

// A bit for each of eight bytes, its highest, that says whether it is an ASCII letter.
uint64_t AsciiLetters(uint64_t bytes) {
  const uint64_t lower = (bytes | kEach * 0x20) & kEach * 0x7F;
  const uint64_t from_a = lower + kEach * (0x80 - 'a'), beyond_z = lower + kEach * (0x7F - 'z');
  return from_a & ~beyond_z & ~bytes & kEach * 0x80;
}

// RunEnd for letters: the most frequent run, eight bytes at a time while they are ASCII.
size_t LettersEnd(std::string_view text, size_t at) {
  while (text.size() - at >= sizeof(uint64_t)) {
    uint64_t bytes;
    std::memcpy(&bytes, text.data() + at, sizeof(bytes));
    const uint64_t others = ~AsciiLetters(bytes) & (kEach * 0x80);
    if (others == 0) {
      at += sizeof(bytes);
      continue;
    }
    at += std::countr_zero(others) / 8;
    if (static_cast<uint8_t>(text[at]) < 0x80) return at;
    const Char c = DecodedCharAt(text, at);
    if (c.type != CharClass::kLetter) return at;
    at += c.bytes;
  }
  return RunEnd(text, at, CharClass::kLetter);
}

// The end of 's, 't, 're, 've, 'm, 'll or 'd at `at`, or `at` if there is none.
size_t ContractionEnd(std::string_view text, size_t at, bool any_case) {
  if (text[at] != '\'') return at;
  const std::string_view rest = text.substr(at + 1, 2);
  const auto letter = [&](size_t i) -> char {
    if (i >= rest.size()) return '\0';
    return any_case && rest[i] >= 'A' && rest[i] <= 'Z' ? static_cast<char>(rest[i] - 'A' + 'a') : rest[i];
  };
  const char first = letter(0), second = letter(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' || first == 'v') && second == 'e') return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  // U+017F, the long s, is an s when case is ignored.
  if (any_case && rest == "\xC5\xBF") return at + 3;
  return at;
}

// The end of white space at `at`: all of it at the end of the text, else all but the last character, which may go with
// what follows; a single one stands alone. With `through_newline` a run that has newlines ends after the last of them.
size_t WhiteSpaceEnd(std::string_view text, size_t at, bool through_newline) {
  size_t end = at, last = at, after_newline = at;
  for (Char c = CharAt(text, end); IsSpace(c.type); c = CharAt(text, end)) {
    last = end;
    end += c.bytes;
    if (c.type == CharClass::kNewline) after_newline = end;
  }
  if (through_newline && after_newline != at) return after_newline;
  return end == text.size() || last == at ? end : last;
}

size_t Gpt2End(std::string_view text, size_t at) {
  if (size_t end = ContractionEnd(text, at, /*any_case=*/false); end != at) return end;
  const size_t body = text[at] == ' ' ? at + 1 : at;
  const CharClass type = CharAt(text, body).type;
  if (type == CharClass::kEnd || IsSpace(type)) return WhiteSpaceEnd(text, at, /*through_newline=*/false);
  return RunEnd(text, body, type);
}

size_t Llama3End(std::string_view text, size_t at, int digits_max) {
  const Char c = CharAt(text, at);
  if (c.type == CharClass::kLetter) return LettersEnd(text, at + c.bytes);
  if (c.type == CharClass::kNumber) return RunEnd(text, at, CharClass::kNumber, digits_max);
  if (size_t end = ContractionEnd(text, at, /*any_case=*/true); end != at) return end;
  const CharClass next = CharAt(text, at + c.bytes).type;
  if (next == CharClass::kLetter && c.type != CharClass::kNewline) return LettersEnd(text, at + c.bytes);
  if (c.type == CharClass::kOther || (text[at] == ' ' && next == CharClass::kOther)) {
    return RunEnd(text, RunEnd(text, at + c.bytes, CharClass::kOther), CharClass::kNewline);
  }
  return WhiteSpaceEnd(text, at, /*through_newline=*/true);
}

}  // namespace

size_t PreTokenEnd(TokenizerSpec::PreTokenizer kind, std::string_view text, size_t at) {
  switch (kind) {
    case TokenizerSpec::PreTokenizer::kGpt2:
      return Gpt2End(text, at);
    case TokenizerSpec::PreTokenizer::kLlama3:
    case TokenizerSpec::PreTokenizer::kLfm2:
      return Llama3End(text, at, 3);
    case TokenizerSpec::PreTokenizer::kQwen2:
      return Llama3End(text, at, 1);
  }
  CHECK(false) << "no such pre-tokenizer";
  return at;
}

}  // namespace braid
