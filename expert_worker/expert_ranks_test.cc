#include "expert_worker/expert_ranks.h"

#include <gtest/gtest.h>

namespace braid {
namespace {

v1::LayerPlacement Layer(const std::vector<uint32_t>& replicas, const std::vector<uint32_t>& ranks) {
  v1::LayerPlacement layer;
  for (const uint32_t count : replicas) layer.add_replicas(count);
  for (const uint32_t rank : ranks) layer.add_ranks(rank);
  return layer;
}

TEST(ExpertRanks, SaysWhereEachExpertIs) {
  const auto placement = ExpertRanks::Parse(Layer({1, 2, 1}, {0, 0, 2, 1}), 3, 3);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->experts(), 3);
  EXPECT_EQ(std::vector<int32_t>(placement->ranks(1).begin(), placement->ranks(1).end()), (std::vector<int32_t>{0, 2}));
  EXPECT_TRUE(placement->IsAt(1, 2));
  EXPECT_FALSE(placement->IsAt(1, 1));
  EXPECT_TRUE(placement->IsAt(2, 1));
}

TEST(ExpertRanks, RefusesWhatMakesNoSense) {
  const auto refused = [](const std::vector<uint32_t>& replicas, const std::vector<uint32_t>& ranks) {
    return ExpertRanks::Parse(Layer(replicas, ranks), 3, 3).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({1, 1}, {0, 0})) << "an expert too few";
  EXPECT_TRUE(refused({1, 1, 1, 1}, {0, 0, 0, 0})) << "an expert too many";
  EXPECT_TRUE(refused({1, 0, 1}, {0, 0})) << "an expert that is nowhere";
  EXPECT_TRUE(refused({1, 1, 1}, {0, 0})) << "a rank too few";
  EXPECT_TRUE(refused({1, 1, 1}, {0, 0, 0, 0})) << "a rank too many";
  EXPECT_TRUE(refused({1, 1, 1}, {0, 3, 0})) << "a rank that does not exist";
  EXPECT_TRUE(refused({1, 2, 1}, {0, 2, 0, 1})) << "descending";
  EXPECT_TRUE(refused({1, 2, 1}, {0, 2, 2, 1})) << "twice at one rank";
  EXPECT_TRUE(refused({4294967295u, 1, 1}, {0, 0, 0})) << "overflow";
}

TEST(ExpertRanks, EveryLayerIsThere) {
  v1::Configure configure;
  *configure.add_placement() = Layer({1}, {0});
  EXPECT_TRUE(ParsePlacement(configure, 1, 1, 1).ok());
  EXPECT_FALSE(ParsePlacement(configure, 2, 1, 1).ok());
  EXPECT_FALSE(ParsePlacement(configure, 0, 0, 1).ok());
  *configure.add_placement() = Layer({1}, {1});
  const auto wrong = ParsePlacement(configure, 2, 1, 1);
  EXPECT_NE(wrong.status().ToString().find("MoE layer 1"), std::string::npos) << wrong.status();
}

}  // namespace
}  // namespace braid
