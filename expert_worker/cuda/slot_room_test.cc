#include "expert_worker/cuda/slot_room.h"

#include <gtest/gtest.h>

#include <vector>

namespace braid::gpu {
namespace {

// `experts` of each layer, dealt out to `ranks`; the first `replicated` are everywhere.
std::vector<ExpertRanks> Placement(int ranks, int experts, int replicated = 0) {
  v1::LayerPlacement layer;
  for (int e = 0; e < experts; ++e) {
    const int first = e < replicated ? 0 : e % ranks, count = e < replicated ? ranks : 1;
    layer.add_replicas(count);
    for (int i = 0; i < count; ++i) layer.add_ranks(first + i);
  }
  return {*ExpertRanks::Parse(layer, experts, ranks)};
}

constexpr size_t kRowBytes = 4096;  // of LFM2-8B-A1B

SlotRoom RoomFor(int ranks, SlotRoom::Options options = {}, int replicated = 0) {
  return SlotRoom(options, 4, kRowBytes, ranks, Placement(ranks, 32, replicated));
}

TEST(SlotRoom, IsForAMultipleOfTheMeanAndChance) {
  const SlotRoom room = RoomFor(8);
  EXPECT_EQ(room.Results(256), 2 * 128 + 68 + 8);
  EXPECT_EQ(room.ResultsMax(256), 4 * 256);
  EXPECT_FALSE(room.FitsAll(256));
}

TEST(SlotRoom, IsForAllWhereThatIsHardlyMore) {
  EXPECT_TRUE(RoomFor(8).FitsAll(32));
  EXPECT_FALSE(RoomFor(8).FitsAll(64));
  EXPECT_TRUE(RoomFor(4).FitsAll(128));
  EXPECT_TRUE(RoomFor(2).FitsAll(1024)) << "twice the mean";
  EXPECT_FALSE(RoomFor(8, {.spare_bytes = 0}).FitsAll(32));
  EXPECT_TRUE(RoomFor(8, {.spare_bytes = 0}).FitsAll(4)) << "chance has it all";
}

TEST(SlotRoom, KnowsThatARowAsksARankForNoMoreThanItHas) {
  const SlotRoom room = RoomFor(16);
  EXPECT_EQ(room.ResultsMax(100), 200);
  EXPECT_EQ(RoomFor(16, {}, /*replicated=*/1).ResultsMax(100), 300);
}

TEST(SlotRoom, CountsReplicasAsWhatARankAsksOfItself) {
  const SlotRoom::Options no_chance = {.multiple = 1, .deviations = 0, .more = 0, .spare_bytes = 0};
  EXPECT_EQ(RoomFor(8, no_chance).Results(128), 128 * 4 * 4 / 32);
  EXPECT_EQ(RoomFor(8, no_chance, /*replicated=*/8).Results(128), 128 * 4 * 11 / 32);
}

TEST(SlotRoom, DoublesUntilAllFitsAndHalvesWhenNothingComes) {
  SlotRoom room = RoomFor(16, {.deviations = 0, .more = 0, .steps_to_halve = 3, .spare_bytes = 0});
  std::vector<int> results;
  const auto step = [&](bool fits) {
    results.push_back(room.Results(64));
    room.CountStep();
    if (!fits) room.DidNotFit();
  };
  for (int i = 0; i < 4; ++i) step(true);  // no lower than at first
  EXPECT_EQ(results, std::vector<int>(4, 32));
  results.clear();
  step(false);
  step(false);
  EXPECT_TRUE(room.FitsAll(64));
  for (int i = 0; i < 7; ++i) step(true);
  EXPECT_EQ(results, (std::vector<int>{32, 64, 128, 128, 128, 64, 64, 64, 32}));
}

TEST(SlotRoom, IsTheSameWhetherTheStepBehindWasCountedBeforeOrNot) {
  for (int calm = 0; calm < 7; ++calm) {
    SlotRoom ahead = RoomFor(16, {.deviations = 0, .more = 0, .steps_to_halve = 3, .spare_bytes = 0}), late = ahead;
    for (SlotRoom* room : {&ahead, &late}) {
      for (int i = 0; i < 2; ++i) room->CountStep(), room->DidNotFit();
      for (int i = 0; i < calm; ++i) room->CountStep();
      room->CountStep();  // the one that will not fit
    }
    ahead.CountStep();
    ahead.DidNotFit(/*another_behind=*/true);
    late.DidNotFit();
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(ahead.Results(64), late.Results(64)) << calm << ", " << i;
      ahead.CountStep();
      late.CountStep();
    }
  }
}

}  // namespace
}  // namespace braid::gpu
