#include "model/char_class.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "model/utf8.h"

namespace braid {
namespace {

struct Range {
  uint32_t first, last;
};

// Letters and numbers that Unicode 15.1 and 16 added; a utf8proc of Unicode 14 or 15 calls them unassigned.
constexpr Range kNewLetters[] = {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
                                 {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
                                 {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
                                 {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
                                 {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
                                 {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr Range kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                 {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};

template <size_t N>
bool Contains(const Range (&ranges)[N], uint32_t code_point) {
  const Range* after = std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                                        [](uint32_t value, const Range& range) { return value < range.first; });
  return after != std::begin(ranges) && code_point <= std::prev(after)->last;
}

bool IsWhiteSpaceBeyondAscii(uint32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

utf8proc_category_t Category(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

}  // namespace

CharClass ClassOf(uint32_t code_point) {
  if (code_point < 0x80) return kAsciiClasses[code_point];
  if (IsWhiteSpaceBeyondAscii(code_point)) return CharClass::kSpace;
  const utf8proc_category_t category = Category(code_point);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) return CharClass::kLetter;
  if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return CharClass::kNumber;
  if (category == UTF8PROC_CATEGORY_CN) {
    if (Contains(kNewLetters, code_point)) return CharClass::kLetter;
    if (Contains(kNewNumbers, code_point)) return CharClass::kNumber;
  }
  return CharClass::kOther;
}

Char DecodedCharAt(std::string_view text, size_t at) {
  const Utf8Step step = DecodeUtf8(text, at);
  if (step.kind != Utf8Step::Kind::kCharacter) return {CharClass::kOther, step.bytes};
  return {ClassOf(step.code_point), step.bytes};
}

bool IsWordCharacter(uint32_t code_point) {
  if (ClassOf(code_point) == CharClass::kLetter) return true;
  if (code_point == 0x200C || code_point == 0x200D) return true;  // joiners
  // Circled and squared Latin letters: symbols by category, yet alphabetic.
  if ((code_point >= 0x24B6 && code_point <= 0x24E9) || (code_point >= 0x1F130 && code_point <= 0x1F149) ||
      (code_point >= 0x1F150 && code_point <= 0x1F169) || (code_point >= 0x1F170 && code_point <= 0x1F189)) {
    return true;
  }
  const utf8proc_category_t category = Category(code_point);
  return (category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME) || category == UTF8PROC_CATEGORY_ND ||
         category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC;
}

}  // namespace braid
