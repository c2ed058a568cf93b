#include "model/word_table.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/word_cache.h"

namespace braid {
namespace {

TokenId Find(const WordTable& table, std::string_view text, size_t at, size_t size) {
  if (size > WordKey::kBytesMax) return table.FindLong(text.substr(at, size));
  const WordKey key = WordKey::Of(text, at, size);
  return table.Find(key, table.HashOf(key));
}

TokenId Find(const WordTable& table, std::string_view word) { return Find(table, word, 0, word.size()); }

// Words that differ in their last byte or in their length alone, of every length around the sizes of keys.
std::vector<std::string> Words() {
  std::vector<std::string> words;
  for (size_t size = 1; size <= 20; ++size) {
    words.push_back(std::string(size, '\0'));
    words.push_back(std::string(size, 'a'));
    words.push_back(std::string(size - 1, 'a') + 'b');
    words.push_back(std::string(size - 1, 'a') + '\xFF');
  }
  return words;
}

TEST(WordTable, FindsWhatItWasGivenAndNothingElse) {
  const std::vector<std::string> words = Words();
  WordTable table(words.size());
  for (size_t i = 0; i < words.size(); i += 2) table.Insert(words[i], static_cast<TokenId>(i));
  for (size_t i = 0; i < words.size(); ++i) {
    EXPECT_EQ(Find(table, words[i]), i % 2 == 0 ? static_cast<TokenId>(i) : -1) << i;
  }
  EXPECT_EQ(Find(table, std::string(1000, 'a')), -1);
}

TEST(WordTable, LooksAtNoByteBesideTheWord) {
  const std::vector<std::string> words = Words();
  WordTable table(words.size());
  for (size_t i = 0; i < words.size(); ++i) table.Insert(words[i], static_cast<TokenId>(i));
  for (size_t i = 0; i < words.size(); ++i) {
    for (size_t behind = 0; behind <= 20; ++behind) {
      const std::string text = "xyz" + words[i] + std::string(behind, 'a');
      EXPECT_EQ(Find(table, text, 3, words[i].size()), static_cast<TokenId>(i)) << i << " " << behind;
    }
  }
}

TEST(WordTable, KeepsTheFirstOfTwo) {
  WordTable table(4);
  table.Insert("twice", 1);
  table.Insert("twice", 2);
  table.Insert("longer than a key, and twice", 3);
  table.Insert("longer than a key, and twice", 4);
  EXPECT_EQ(Find(table, "twice"), 1);
  EXPECT_EQ(Find(table, "longer than a key, and twice"), 3);
}

TEST(WordTable, OfNothingFindsNothing) { EXPECT_EQ(Find(WordTable(0), "a"), -1); }

TEST(WordCache, GivesBackWhatWasPutLast) {
  WordCache cache(0);  // one slot
  const WordKey a = WordKey::Of("a", 0, 1), zero = WordKey::Of(std::string_view("a\0", 2), 0, 2);
  EXPECT_TRUE(cache.Find(a, 1).empty());
  cache.Put(a, 1, std::vector<TokenId>{7, 8});
  ASSERT_EQ(cache.Find(a, 1).size(), 2u);
  EXPECT_EQ(cache.Find(a, 1)[1], 8);
  EXPECT_TRUE(cache.Find(zero, 1).empty());
  cache.Put(zero, 2, std::vector<TokenId>{9});
  EXPECT_EQ(cache.Find(zero, 2)[0], 9);
  EXPECT_TRUE(cache.Find(a, 1).empty());
}

TEST(WordCache, LeavesOutWhatIsTooLong) {
  WordCache cache(1 << 20);
  const WordKey key = WordKey::Of("0123456789abcdef", 0, 16);
  cache.Put(key, 5, std::vector<TokenId>(16, 1));
  EXPECT_TRUE(cache.Find(key, 5).empty());
  cache.Put(key, 5, std::vector<TokenId>(11, 1));
  EXPECT_EQ(cache.Find(key, 5).size(), 11u);
}

}  // namespace
}  // namespace braid
