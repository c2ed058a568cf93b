#include "router/group.h"

#include <gtest/gtest.h>

namespace braid {
namespace {

Group TwoWorkers() {
  return Group(Epoch(1), 16,
               {{.id = WorkerId(1), .kv_blocks_total = 100, .sequences_max = 2, .step_tokens_max = 64},
                {.id = WorkerId(2), .kv_blocks_total = 10, .sequences_max = 2, .step_tokens_max = 64}});
}

TEST(Group, RoundsTokensUpToBlocks) {
  EXPECT_EQ(TwoWorkers().BlocksFor(1), 1u);
  EXPECT_EQ(TwoWorkers().BlocksFor(16), 1u);
  EXPECT_EQ(TwoWorkers().BlocksFor(17), 2u);
}

TEST(Group, PicksTheSmallerShareNotTheSmallerNumber) {
  Group group = TwoWorkers();
  group.Reserve(0, 20);  // a fifth
  group.Reserve(1, 5);   // a half
  EXPECT_EQ(group.PickOwner(1), 0);
}

TEST(Group, PicksOnlyWhoHasRoom) {
  Group group = TwoWorkers();
  EXPECT_EQ(group.PickOwner(11), 0);
  EXPECT_EQ(group.PickOwner(101), std::nullopt);
  group.Reserve(0, 95);
  EXPECT_EQ(group.PickOwner(10), 1);
  EXPECT_EQ(group.PickOwner(11), std::nullopt);
}

TEST(Group, PicksNobodyBeyondTheSequencesOfAWorker) {
  Group group = TwoWorkers();
  for (int i = 0; i < 2; ++i) group.Reserve(0, 1), group.Reserve(1, 1);
  EXPECT_EQ(group.PickOwner(1), std::nullopt);
  group.Release(1, 1);
  EXPECT_EQ(group.PickOwner(1), 1);
}

TEST(Group, AddsUpItsMemory) {
  Group group = TwoWorkers();
  group.Reserve(0, 3);
  group.Reserve(1, 4);
  EXPECT_EQ(group.kv_blocks_used(), 7u);
  EXPECT_EQ(group.kv_blocks_total(), 110u);
  EXPECT_EQ(group.tokens_max(), 1600u);
}

}  // namespace
}  // namespace braid
