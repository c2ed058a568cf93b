#include "router/drafter.h"

#include <gtest/gtest.h>

#include <vector>

namespace braid {
namespace {

TEST(Drafter, GoesOnWithARepetitionBeyondItsEnd) {
  const std::vector<TokenId> log = {9, 1, 2, 3, 1, 2, 3, 1, 2};
  Drafter drafter;
  drafter.Look(log);
  ASSERT_TRUE(drafter.guesses());
  const std::vector<TokenId> expected = {3, 1, 2, 3, 1, 2, 3};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(drafter.Guess(log, i), expected[i]) << i;
}

TEST(Drafter, TrustsLongMatchesMore) {
  const HitRates all(100);
  EXPECT_LT(all.Of(2, nullptr), all.Of(3, nullptr));
  EXPECT_LT(all.Of(3, nullptr), all.Of(5, nullptr));
  EXPECT_LT(all.Of(15, nullptr), all.Of(16, nullptr));
  EXPECT_EQ(all.Of(16, nullptr), all.Of(1000, nullptr));
}

// Copies a text over and over, but says something else at every `slip`-th token.
double ChanceAfter(int slip) {
  HitRates all(1000);
  Drafter drafter;
  std::vector<TokenId> log;
  for (TokenId i = 0; i < 20; ++i) log.push_back(i);
  for (int i = 0; i < 300; ++i) {
    const TokenId token = i % slip == 0 ? 1000 + i : log[log.size() - 20];
    drafter.Look(log);
    drafter.Learn(log, token, &all);
    log.push_back(token);
  }
  return all.Of(3, nullptr);
}

TEST(Drafter, LearnsFromTokensThatItWasNotAskedAbout) {
  EXPECT_GT(ChanceAfter(1000), 0.5);
  EXPECT_LT(ChanceAfter(4), 0.3);
}

TEST(Drafter, LearnsOfASequenceFromTheOthersUntilItKnowsBetter) {
  HitRates all(1000), own(50);
  for (int i = 0; i < 1000; ++i) all.Add(5, false);
  EXPECT_LT(own.Of(5, &all), 0.05);
  for (int i = 0; i < 50; ++i) own.Add(5, true);
  EXPECT_GT(own.Of(5, &all), 0.8);
}

TEST(Drafter, LearnsFromRunsOfTokensUntilOneIsWrong) {
  std::vector<TokenId> log = {1, 2, 3, 4, 5, 1, 2};
  Drafter drafter;
  HitRates all(1000);
  drafter.Look(log);
  const double before = all.Of(4, nullptr);
  for (const TokenId token : {3, 4}) {
    drafter.Learn(log, token, &all);
    log.push_back(token);
  }
  drafter.Learn(log, 77, &all);
  EXPECT_FALSE(drafter.guesses());
  EXPECT_GT(all.Of(2, nullptr), HitRates(9).Of(2, nullptr));
  EXPECT_LT(all.Of(4, nullptr), before);
}

}  // namespace
}  // namespace braid
