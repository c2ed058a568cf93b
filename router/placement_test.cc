#include "router/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace braid {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Placement, GivesEachRankAContiguousRun) { EXPECT_THAT(PlaceExperts(6, 3), ElementsAre(0, 0, 1, 1, 2, 2)); }

TEST(Placement, PutsEverythingOnTheOnlyRank) { EXPECT_THAT(PlaceExperts(32, 1), Each(0)); }

TEST(Placement, IsEmptyForADenseModel) { EXPECT_THAT(PlaceExperts(0, 4), IsEmpty()); }

TEST(Placement, NeverLeavesRanksMoreThanOneExpertApart) {
  for (uint32_t experts = 1; experts <= 70; ++experts) {
    for (uint32_t ranks = 1; ranks <= 12; ++ranks) {
      std::vector<uint32_t> placement = PlaceExperts(experts, ranks);
      ASSERT_EQ(placement.size(), experts);
      ASSERT_TRUE(std::is_sorted(placement.begin(), placement.end()));
      for (uint32_t rank = 0; rank < ranks; ++rank) {
        auto count = static_cast<uint32_t>(std::count(placement.begin(), placement.end(), rank));
        ASSERT_GE(count, experts / ranks) << experts << " experts on " << ranks << " ranks";
        ASSERT_LE(count, (experts + ranks - 1) / ranks) << experts << " experts on " << ranks << " ranks";
      }
    }
  }
}

}  // namespace
}  // namespace braid
