#include "router/prompt_lookup.h"

#include <gtest/gtest.h>

#include <random>

namespace braid {
namespace {

using Log = std::vector<TokenId>;

PromptLookup::Match Find(const Log& log) {
  PromptLookup lookup;
  return lookup.Find(log);
}

TEST(PromptLookup, FindsWhatFollowedTheLastTokensBefore) {
  const PromptLookup::Match match = Find({1, 2, 3, 4, 5, 9, 2, 3});
  EXPECT_EQ(match.length, 2);
  EXPECT_EQ(match.next, 3);
}

TEST(PromptLookup, FindsNothingInWhatIsNew) {
  EXPECT_EQ(Find({}).length, 0);
  EXPECT_EQ(Find({1}).length, 0);
  EXPECT_EQ(Find({1, 1}).length, 0);
  EXPECT_EQ(Find({1, 2, 3, 4}).length, 0);
  EXPECT_EQ(Find({1, 2, 3, 1}).length, 0) << "one token says too little";
}

TEST(PromptLookup, PrefersTheLongestMatchAndThenTheLatest) {
  EXPECT_EQ(Find({7, 2, 3, 50, 8, 2, 3, 60, 7, 2, 3}).next, 3);
  EXPECT_EQ(Find({7, 2, 3, 50, 8, 2, 3, 60, 9, 2, 3}).next, 7);
}

TEST(PromptLookup, SeesARepetitionThatIsUnderWay) {
  const PromptLookup::Match match = Find({5, 5, 5});
  EXPECT_EQ(match.length, 2);
  EXPECT_EQ(match.next, 2);
}

TEST(PromptLookup, GrowsWithItsLogAndAgreesWithAPlainSearch) {
  std::mt19937 rng(1);
  Log log;
  PromptLookup grown;
  for (int n = 0; n < 3000; ++n) {
    log.push_back(static_cast<TokenId>(rng() % 40));
    PromptLookup::Match expected;
    int seen = 0;  // pairs like the last one, from behind
    const int end = static_cast<int>(log.size());
    for (int at = end - 1; at >= 2 && expected.length < PromptLookup::kMatchMax; --at) {
      if (end < 2 || log[at - 1] != log[end - 1] || log[at - 2] != log[end - 2]) continue;
      if (++seen > PromptLookup::kCandidatesMax) break;
      int length = 2;
      while (length < PromptLookup::kMatchMax && length < at && log[at - length - 1] == log[end - length - 1]) ++length;
      if (length > expected.length) expected = {length, at};
    }
    const PromptLookup::Match match = grown.Find(log);
    ASSERT_EQ(match.length, expected.length) << n;
    ASSERT_EQ(match.next, expected.next) << n;
    if (n % 500 == 0) {
      ASSERT_EQ(Find(log).next, match.next) << "all at once";
    }
  }
}

// Nothing that a prompt says makes a search long: it would take hours here if all places were looked at.
TEST(PromptLookup, EndsSoonOnHostileText) {
  Log log(200000, 3);
  PromptLookup lookup;
  for (int n = 0; n < 100000; ++n) {
    log.push_back(n % 100 == 0 ? 4 : 3);
    EXPECT_LE(lookup.Find(log).length, PromptLookup::kMatchMax);
  }
}

TEST(PromptLookup, TakesAnyTokens) {
  Log log = {-1, 2147483647, -2147483647 - 1, 0, -1, 2147483647};
  EXPECT_EQ(Find(log).next, 2);
}

}  // namespace
}  // namespace braid
