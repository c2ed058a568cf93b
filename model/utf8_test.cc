#include "model/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace braid {
namespace {

constexpr char kBad[] = "\xEF\xBF\xBD";  // U+FFFD

std::string Bad(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += kBad;
  return text;
}

TEST(Utf8, WritesWhatItReads) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Step step = DecodeUtf8(text, 0);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kCharacter);
    ASSERT_EQ(step.bytes, static_cast<int>(text.size()));
    ASSERT_EQ(step.code_point, c >= 0xD800 && c < 0xE000 ? kReplacementCharacter : c);
  }
}

// The right column is Python's bytes.decode(errors="replace").
TEST(Utf8, ReplacesAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain é漢😀", "plain é漢😀"},
      {"\xE2\x82", Bad(1)},               // cut off
      {"\xF0\x9F\x98", Bad(1)},           // cut off
      {"\xF0\x9F\x98 x", Bad(1) + " x"},  // broken off
      {"\xE2\x28\xA1", Bad(1) + "(" + Bad(1)},
      {"\xED\xA0\x80", Bad(3)},      // a surrogate
      {"\xF0\x80\x80\x80", Bad(4)},  // overlong
      {"\xC0\xAF", Bad(2)},          // overlong
      {"\xF4\x90\x80\x80", Bad(4)},  // beyond U+10FFFF
      {"\x80\xBF", Bad(2)},          // nothing to continue
      {"\xFE\xFF", Bad(2)},
      {"a\xC3", "a" + Bad(1)},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(ToValidUtf8(bytes), text);
    EXPECT_TRUE(IsValidUtf8(text));
    EXPECT_EQ(IsValidUtf8(bytes), bytes == text);
  }
}

TEST(Utf8Assembler, AnyCutGivesTheSame) {
  const std::string bytes = "é漢😀\xF0\x9F\x98x\xED\xA0\x80\xE2\x82\xC3\xA9 \xF4\x90\x80\x80\xE2\x82";
  const std::string whole = ToValidUtf8(bytes);
  for (size_t width = 1; width < 8; ++width) {
    Utf8Assembler assembler;
    std::string text;
    for (size_t at = 0; at < bytes.size(); at += width) {
      const std::string piece = assembler.Push(bytes.substr(at, width));
      EXPECT_TRUE(IsValidUtf8(piece));
      text += piece;
    }
    EXPECT_EQ(text + assembler.Finish(), whole);
  }
}

TEST(Utf8Assembler, HoldsBackOnlyWhatMayStillBecomeACharacter) {
  Utf8Assembler assembler;
  EXPECT_EQ(assembler.Push("a\xF0\x9F"), "a");
  EXPECT_EQ(assembler.Push("\x98"), "");
  EXPECT_EQ(assembler.Push("\x80"), "😀");
  EXPECT_EQ(assembler.Push("\xE2"), "");
  EXPECT_EQ(assembler.Push("x"), Bad(1) + "x");
  EXPECT_EQ(assembler.Push("\xFF"), Bad(1));
  EXPECT_EQ(assembler.Finish(), "");
  assembler.Push("\xE2\x82");
  EXPECT_EQ(assembler.Finish(), Bad(1));
  EXPECT_EQ(assembler.Finish(), "");
}

}  // namespace
}  // namespace braid
