#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "model/byte_spelling.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Specials = Tokenizer::Specials;

// Ids 0..255 are the bytes; `merges` add tokens from 256 on; then come the added tokens.
TokenizerSpec Spec(const std::vector<std::pair<std::string, std::string>>& merges,
                   const std::vector<TokenizerSpec::AddedToken>& added = {}) {
  TokenizerSpec spec;
  for (int byte = 0; byte < 256; ++byte) spec.tokens.push_back(SpellBytes(std::string(1, static_cast<char>(byte))));
  for (const auto& [left, right] : merges) {
    spec.merges.emplace_back(SpellBytes(left), SpellBytes(right));
    spec.tokens.push_back(SpellBytes(left + right));
  }
  for (TokenizerSpec::AddedToken token : added) {
    token.id = static_cast<TokenId>(spec.tokens.size() + spec.added.size());
    spec.added.push_back(token);
  }
  return spec;
}

TokenizerSpec::AddedToken Special(const std::string& text) { return {0, text, /*special=*/true}; }
TokenizerSpec::AddedToken Plain(const std::string& text) { return {0, text, /*special=*/false}; }

std::unique_ptr<Tokenizer> Make(TokenizerSpec spec) {
  auto tokenizer = Tokenizer::Create(std::move(spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string ErrorOf(TokenizerSpec spec) {
  const auto tokenizer = Tokenizer::Create(std::move(spec));
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(Tokenizer, MergesByRankAndThenFromTheLeft) {
  const auto tokenizer = Make(Spec({{"b", "c"}, {"a", "b"}, {"a", "a"}, {"aa", "a"}}));
  EXPECT_THAT(tokenizer->Encode("abc", Specials::kPlain), ElementsAre('a', 256));
  EXPECT_THAT(tokenizer->Encode("aaaaa", Specials::kPlain), ElementsAre(258, 259));
  EXPECT_THAT(tokenizer->Encode("xab", Specials::kPlain), ElementsAre('x', 257));
}

TEST(Tokenizer, NeverMergesAcrossPreTokens) {
  const auto tokenizer = Make(Spec({{"a", " "}, {" ", "b"}}));
  EXPECT_THAT(tokenizer->Encode("a b", Specials::kPlain), ElementsAre('a', 257));
}

TEST(Tokenizer, IgnoreMergesTakesAPreTokenThatIsATokenWhole) {
  TokenizerSpec spec = Spec({{"a", "b"}});
  spec.tokens.push_back("abc");  // 257: no merge leads to it
  EXPECT_THAT(Make(spec)->Encode("abc", Specials::kPlain), ElementsAre(256, 'c'));
  spec.ignore_merges = true;
  EXPECT_THAT(Make(spec)->Encode("abc abcd", Specials::kPlain), ElementsAre(257, ' ', 256, 'c', 'd'));
}

TEST(Tokenizer, EncodesAnyBytes) {
  const auto tokenizer = Make(Spec({}));
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::vector<TokenId> ids = tokenizer->Encode(all, Specials::kParse);
  EXPECT_EQ(ids.size(), 256u);
  EXPECT_EQ(tokenizer->Decode(ids, true), all);
  EXPECT_TRUE(tokenizer->Encode("", Specials::kParse).empty());
}

TEST(Tokenizer, AUsersTextNeverBecomesAControlToken) {
  const auto tokenizer = Make(Spec({{"<", "e"}, {"<e", "o"}}, {Special("<eos>"), Plain("<ul>")}));
  const TokenId eos = *tokenizer->Find("<eos>"), ul = *tokenizer->Find("<ul>");
  EXPECT_THAT(tokenizer->Encode("a<eos><ul>", Specials::kParse), ElementsAre('a', eos, ul));
  const auto plain = tokenizer->Encode("a<eos><ul>", Specials::kPlain);
  EXPECT_THAT(plain, testing::Not(testing::Contains(eos)));
  EXPECT_EQ(plain.back(), ul);
  EXPECT_EQ(tokenizer->Decode(plain, true), "a<eos><ul>");
}

TEST(Tokenizer, BpeAndWholeWordsCannotReachAControlToken) {
  TokenizerSpec spec = Spec({}, {Special("ab")});
  spec.tokens.push_back("ab");  // the file lists it as a token too, with the same id
  spec.ignore_merges = true;
  EXPECT_THAT(Make(spec)->Encode("ab", Specials::kPlain), ElementsAre('a', 'b'));
  spec.merges.emplace_back("a", "b");
  EXPECT_THAT(ErrorOf(spec), HasSubstr("merge 0"));
}

TEST(Tokenizer, TakesTheLongestAddedTokenAtTheLeftmostPlace) {
  const auto tokenizer = Make(Spec({}, {Plain("<a>"), Plain("<a>b"), Plain("a>bc")}));
  EXPECT_THAT(tokenizer->Encode("x<a>bc", Specials::kPlain), ElementsAre('x', 257, 'c'));
  EXPECT_THAT(tokenizer->Encode("<<a><", Specials::kPlain), ElementsAre('<', 256, '<'));
}

TEST(Tokenizer, FindsAddedTokensOfOneByteAndAtTheVeryEnd) {
  const auto tokenizer = Make(Spec({}, {Plain("#"), Plain("<a"), Plain("#!"), Special("@")}));
  EXPECT_THAT(tokenizer->Encode("x#", Specials::kPlain), ElementsAre('x', 256));
  EXPECT_THAT(tokenizer->Encode("#<<a", Specials::kPlain), ElementsAre(256, '<', 257));
  EXPECT_THAT(tokenizer->Encode("##!#x", Specials::kPlain), ElementsAre(256, 258, 256, 'x'));
  EXPECT_THAT(tokenizer->Encode("<", Specials::kPlain), ElementsAre('<'));
  EXPECT_THAT(tokenizer->Encode("@#@", Specials::kPlain), ElementsAre('@', 256, '@'));
  EXPECT_THAT(tokenizer->Encode("@#@", Specials::kParse), ElementsAre(259, 256, 259));
}

TEST(Tokenizer, StripsAroundAddedTokensThatAskForIt) {
  TokenizerSpec::AddedToken greedy = Plain("<g>"), word = Plain("word");
  greedy.lstrip = greedy.rstrip = true;
  word.single_word = true;
  const auto tokenizer = Make(Spec({}, {greedy, word}));
  EXPECT_THAT(tokenizer->Encode("a \u3000<g>\n b", Specials::kPlain), ElementsAre('a', 256, 'b'));
  EXPECT_THAT(tokenizer->Encode("(word)", Specials::kPlain), ElementsAre('(', 257, ')'));
  EXPECT_EQ(tokenizer->Encode("words", Specials::kPlain).size(), 5u);
  EXPECT_EQ(tokenizer->Encode("éword", Specials::kPlain).size(), 6u);
}

TEST(Tokenizer, AddsAPrefixSpaceIfAsked) {
  TokenizerSpec spec = Spec({{" ", "a"}});
  spec.add_prefix_space = true;
  const auto tokenizer = Make(spec);
  EXPECT_THAT(tokenizer->Encode("a", Specials::kPlain), ElementsAre(256));
  EXPECT_THAT(tokenizer->Encode(" a", Specials::kPlain), ElementsAre(256));
  EXPECT_TRUE(tokenizer->Encode("", Specials::kPlain).empty());
}

TEST(Tokenizer, DecodesWithAndWithoutSpecials) {
  const auto tokenizer = Make(Spec({}, {Special("<eos>")}));
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{'h', 'i', 256}, true), "hi<eos>");
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{'h', 'i', 256, -1, 99999}, false), "hi");
  EXPECT_TRUE(tokenizer->IsSpecial(256));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(257));
  EXPECT_EQ(tokenizer->Bytes(257), "");
}

// Words that are split off in batches, are known already or lie at the end of the text are encoded as anywhere else.
TEST(Tokenizer, EncodesAWordAlikeWhereverItStands) {
  const auto tokenizer = Make(Spec({{"a", "b"}, {" ", "ab"}, {"c", "d"}, {" ab", "cd"}, {"e", "f"}}));
  const std::vector<std::string> words = {" abcd", " ab", " abcdef", " xabcd", " efefabababababababcd", "1", " "};
  std::string text;
  std::vector<TokenId> wanted;
  for (size_t i = 0; i < 500; ++i) {
    const std::string& word = words[i * i % words.size()] + ".";
    const auto ids = tokenizer->Encode(word, Specials::kPlain);
    wanted.insert(wanted.end(), ids.begin(), ids.end());
    text += word;
    ASSERT_EQ(tokenizer->Encode(text, Specials::kPlain), wanted) << i;
  }
}

TEST(Tokenizer, KnowsItsStopTokens) {
  TokenizerSpec spec = Spec({}, {Special("<|endoftext|>"), Special("<|im_end|>"), Special("<|pad|>")});
  EXPECT_THAT(Make(spec)->stop_tokens(), ElementsAre(257, 256));
  spec.eos = 257;
  EXPECT_THAT(Make(spec)->stop_tokens(), ElementsAre(257, 256));
  EXPECT_EQ(Make(spec)->eos(), 257);
  EXPECT_EQ(Make(spec)->vocab_size(), 259);
}

TEST(Tokenizer, KeepsIdsWithoutATokenEmpty) {
  TokenizerSpec spec = Spec({});
  spec.tokens.resize(300);
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->vocab_size(), 300);
  EXPECT_EQ(tokenizer->Bytes(299), "");
}

TEST(Tokenizer, RefusesContradictorySpecs) {
  TokenizerSpec spec = Spec({});
  spec.tokens[0x41] = "";
  EXPECT_THAT(ErrorOf(spec), HasSubstr("no token for byte 0x41"));
  spec = Spec({});
  spec.tokens.push_back("A");
  EXPECT_THAT(ErrorOf(spec), HasSubstr("tokens 65 and 256 are both \"A\""));
  spec = Spec({});
  spec.merges.emplace_back("a", "b");
  EXPECT_THAT(ErrorOf(spec), HasSubstr("merge 0 of \"a\" and \"b\""));
  spec = Spec({});
  spec.eos = 256;
  EXPECT_THAT(ErrorOf(spec), HasSubstr("the eos token has the id 256"));
}

TEST(Tokenizer, RefusesHostileAddedTokens) {
  TokenizerSpec spec = Spec({}, {Special("<a>"), Special("<a>")});
  EXPECT_THAT(ErrorOf(spec), HasSubstr("has two ids"));
  spec.added[1] = {spec.added[0].id, "<b>"};
  EXPECT_THAT(ErrorOf(spec), HasSubstr("twice"));
  spec.added[1] = {-1, "<b>"};
  EXPECT_THAT(ErrorOf(spec), HasSubstr("outside"));
  spec.added[1] = {2'000'000'000, "<b>"};
  EXPECT_THAT(ErrorOf(spec), HasSubstr("outside"));
  spec.added[1] = {257, ""};
  EXPECT_THAT(ErrorOf(spec), HasSubstr("0 bytes"));
  spec.added[1] = {257, std::string(1 << 20, 'x')};
  EXPECT_THAT(ErrorOf(spec), HasSubstr("1048576 bytes"));
}

// No assertion on time: an algorithm that is quadratic in the length of a word would not come to an end here.
TEST(Tokenizer, TakesAMegabyteOfOneLetter) {
  const auto tokenizer = Make(Spec({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {" ", " "}}));
  constexpr size_t kBytes = 1 << 20;
  EXPECT_EQ(tokenizer->Encode(std::string(kBytes, 'a'), Specials::kPlain).size(), kBytes / 8);
  EXPECT_EQ(tokenizer->Encode(std::string(kBytes, ' '), Specials::kPlain).size(), kBytes / 2);
  EXPECT_EQ(tokenizer->Encode(std::string(kBytes, '\n'), Specials::kPlain).size(), kBytes);
  EXPECT_EQ(tokenizer->Encode(std::string(kBytes, '<'), Specials::kParse).size(), kBytes);
}

}  // namespace
}  // namespace braid
