#include "model/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/char_class.h"

namespace braid {
namespace {

using Kind = TokenizerSpec::PreTokenizer;

// The pre-tokens with a bar between; line breaks show as themselves.
std::string Split(Kind kind, std::string_view text) {
  std::string joined;
  for (size_t at = 0; at < text.size();) {
    const size_t end = PreTokenEnd(kind, text, at);
    EXPECT_GT(end, at);
    EXPECT_LE(end, text.size());
    joined += (at > 0 ? "|" : "") + std::string(text.substr(at, end - at));
    at = end;
  }
  return joined;
}

TEST(PreTokenizer, Llama3KeepsLettersWithOneSignBeforeThem) {
  EXPECT_EQ(Split(Kind::kLlama3, "Hello world, it's (fine)."), "Hello| world|,| it|'s| (|fine|).");
  EXPECT_EQ(Split(Kind::kLlama3, "a\tb $x #é"), "a|\tb| $|x| #|é");
}

TEST(PreTokenizer, Llama3GroupsDigitsByThreeAndQwen2ByOne) {
  EXPECT_EQ(Split(Kind::kLlama3, "1234567 x12"), "123|456|7| x|12");
  EXPECT_EQ(Split(Kind::kQwen2, "123 x12"), "1|2|3| x|1|2");
  EXPECT_EQ(Split(Kind::kLfm2, "١٢٣٤½"), "١٢٣|٤½");
}

TEST(PreTokenizer, ContractionsAreAsWrittenInGpt2AndInAnyCaseElsewhere) {
  EXPECT_EQ(Split(Kind::kGpt2, "I'LL don't"), "I|'|LL| don|'t");
  EXPECT_EQ(Split(Kind::kLlama3, "I'LL don'T 're'Ve'D"), "I|'LL| don|'T| '|re|'Ve|'D");
  EXPECT_EQ(Split(Kind::kLlama3, "it'\xC5\xBF"), "it|'\xC5\xBF");  // the long s
  EXPECT_EQ(Split(Kind::kLlama3, "a'b'"), "a|'b|'");
}

TEST(PreTokenizer, WhiteSpaceGoesToTheNextWordOneCharacterAtMost) {
  EXPECT_EQ(Split(Kind::kLlama3, "a   b"), "a|  | b");
  EXPECT_EQ(Split(Kind::kLlama3, "a   1"), "a|  | |1");
  EXPECT_EQ(Split(Kind::kGpt2, "a   1"), "a|  | 1");
  EXPECT_EQ(Split(Kind::kLlama3, "a   "), "a|   ");
  EXPECT_EQ(Split(Kind::kGpt2, "a \n b"), "a| \n| b");
}

TEST(PreTokenizer, Llama3EndsWhiteSpaceBehindItsLastLineBreak) {
  EXPECT_EQ(Split(Kind::kLlama3, "a \n\n  b"), "a| \n\n| | b");
  EXPECT_EQ(Split(Kind::kLlama3, "x;\n\ny"), "x|;\n\n|y");
  EXPECT_EQ(Split(Kind::kLlama3, " \n \n "), " \n \n| ");
}

TEST(PreTokenizer, TakesBytesThatAreNoTextAsSigns) {
  EXPECT_EQ(Split(Kind::kLlama3, "a\xFF\xFE!b"), "a|\xFF\xFE!|b");
  EXPECT_EQ(Split(Kind::kLlama3, "a\xE2\x82"), "a|\xE2\x82");
}

TEST(CharClass, KnowsWhatUnicode16Added) {
  EXPECT_EQ(ClassOf(0x1C89), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x2EBF0), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x10D40), CharClass::kNumber);
  EXPECT_EQ(ClassOf(0x2EE5E), CharClass::kOther);
}

TEST(CharClass, WhiteSpaceIsThePropertyAndNoMore) {
  for (uint32_t c : {0x09u, 0x0Bu, 0x20u, 0x85u, 0xA0u, 0x1680u, 0x2028u, 0x3000u})
    EXPECT_TRUE(IsSpace(ClassOf(c))) << c;
  for (uint32_t c : {0x1Cu, 0x180Eu, 0x200Bu, 0xFEFFu}) EXPECT_FALSE(IsSpace(ClassOf(c))) << c;
}

}  // namespace
}  // namespace braid
