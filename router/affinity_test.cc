#include "router/affinity.h"

#include <gtest/gtest.h>

#include <vector>

namespace braid {
namespace {

std::vector<TokenId> Prompt(int tokens, TokenId last = 0) {
  std::vector<TokenId> prompt(static_cast<size_t>(tokens));
  for (int i = 0; i < tokens; ++i) prompt[static_cast<size_t>(i)] = i;
  prompt.back() += last;
  return prompt;
}

TEST(Affinity, FindsTheNextTurnOfAConversation) {
  Affinity affinity(100);
  affinity.Remember(Prompt(70), "1");
  EXPECT_EQ(affinity.Find(Prompt(500)), "1");
  EXPECT_EQ(affinity.Find(Prompt(32)), "1");
  EXPECT_EQ(affinity.Find(Prompt(31)), std::nullopt) << "too short to matter";
  EXPECT_EQ(affinity.Find(Prompt(32, 1)), std::nullopt);
}

TEST(Affinity, PrefersTheLongestBeginning) {
  Affinity affinity(100);
  affinity.Remember(Prompt(64), "long");
  affinity.Remember(Prompt(32), "short");
  EXPECT_EQ(affinity.Find(Prompt(64)), "long");
  EXPECT_EQ(affinity.Find(Prompt(64, 1)), "short");
}

TEST(Affinity, ForgetsWhatWasNotSeenForLongest) {
  Affinity affinity(2);
  affinity.Remember(Prompt(32, 1), "a");
  affinity.Remember(Prompt(32, 2), "b");
  affinity.Remember(Prompt(32, 1), "a");
  affinity.Remember(Prompt(32, 3), "c");
  EXPECT_EQ(affinity.size(), 2u);
  EXPECT_EQ(affinity.Find(Prompt(32, 2)), std::nullopt);
  EXPECT_EQ(affinity.Find(Prompt(32, 1)), "a");
}

}  // namespace
}  // namespace braid
