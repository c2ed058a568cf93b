#include "router/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

PlacementProblem Problem(int workers, int experts, int layers = 1) {
  PlacementProblem problem{.layers = layers, .experts = experts};
  for (int i = 0; i < workers; ++i) {
    problem.workers.push_back({.id = WorkerId(static_cast<uint32_t>(i + 1)), .slots = layers * experts});
  }
  return problem;
}

int Held(const Placement& placement, uint32_t worker, size_t layer = 0) {
  int held = 0;
  for (const Placement::Homes& homes : placement.layers[layer]) {
    held += static_cast<int>(std::count(homes.begin(), homes.end(), WorkerId(worker)));
  }
  return held;
}

TEST(Placement, SpreadsExpertsEvenlyWhileNothingIsKnown) {
  for (int experts = 1; experts <= 40; ++experts) {
    for (int workers = 1; workers <= 9; ++workers) {
      const std::optional<Placement> placement = PlaceExperts(Problem(workers, experts));
      ASSERT_TRUE(placement);
      for (int w = 1; w <= workers; ++w) {
        ASSERT_GE(Held(*placement, static_cast<uint32_t>(w)), experts / workers);
        ASSERT_LE(Held(*placement, static_cast<uint32_t>(w)), (experts + workers - 1) / workers);
      }
    }
  }
}

TEST(Placement, IsEmptyForADenseModel) { EXPECT_THAT(PlaceExperts(Problem(3, 0, 0))->layers, IsEmpty()); }

TEST(Placement, SaysWhenThereIsNotMemoryForAllExperts) {
  PlacementProblem problem = Problem(2, 8, 2);
  problem.workers[0].slots = 8;
  problem.workers[1].slots = 7;
  EXPECT_EQ(PlaceExperts(problem), std::nullopt);
  problem.workers[1].slots = 8;
  const std::optional<Placement> placement = PlaceExperts(problem);
  ASSERT_TRUE(placement);
  for (size_t layer : {0, 1}) EXPECT_EQ(Held(*placement, 1, layer), 4);
}

TEST(Placement, ALossMovesOnlyWhatWasLost) {
  PlacementProblem problem = Problem(4, 32);
  const Placement before = *PlaceExperts(problem);
  problem.before = &before;
  problem.workers.erase(problem.workers.begin() + 1);
  const Placement after = *PlaceExperts(problem);
  EXPECT_EQ(after.CountNew(before), 8);
  for (size_t e = 0; e < 32; ++e) {
    if (before.layers[0][e] != Placement::Homes{WorkerId(2)}) {
      EXPECT_EQ(after.layers[0][e], before.layers[0][e]);
    }
  }
}

TEST(Placement, AnArrivalTakesItsShare) {
  PlacementProblem problem = Problem(3, 32);
  const Placement before = *PlaceExperts(problem);
  problem.before = &before;
  problem.workers.push_back({.id = WorkerId(9), .slots = 32});
  const Placement after = *PlaceExperts(problem);
  EXPECT_EQ(Held(after, 9), 8);
  EXPECT_EQ(after.CountNew(before), 8) << "nobody else reads anything in";
}

TEST(Placement, IsTheSameWhenNothingHasChanged) {
  PlacementProblem problem = Problem(3, 32, 4);
  const Placement before = *PlaceExperts(problem);
  problem.before = &before;
  problem.moves_max = 10;
  EXPECT_EQ(PlaceExperts(problem)->CountNew(before), 0);
}

TEST(Placement, ReplicatesTheHotAndKeepsTheColdSingle) {
  PlacementProblem problem = Problem(4, 8);
  const Placement before = *PlaceExperts(problem);
  const std::vector<double> load = {800, 10, 10, 10, 10, 10, 10, 10};
  problem.before = &before;
  problem.load = load;
  problem.replicas_max = 2;
  problem.moves_max = 8;
  const Placement after = *PlaceExperts(problem);
  EXPECT_THAT(after.layers[0][0], SizeIs(4));
  for (size_t e = 1; e < 8; ++e) EXPECT_THAT(after.layers[0][e], SizeIs(1));
  EXPECT_GT(before.Imbalance(load, 4), 3.5);
  EXPECT_LT(after.Imbalance(load, 4), 1.2);

  // When it has cooled down, the replicas go.
  const std::vector<double> even(8, 100.0);
  problem.before = &after;
  problem.load = even;
  const Placement later = *PlaceExperts(problem);
  for (size_t e = 0; e < 8; ++e) EXPECT_THAT(later.layers[0][e], SizeIs(1));
}

TEST(Placement, MovesAtMostWhatIsAllowed) {
  PlacementProblem problem = Problem(4, 32);
  const Placement before = *PlaceExperts(problem);
  std::vector<double> load(32, 1.0);
  for (size_t e = 0; e < 32; ++e) {
    if (before.layers[0][e][0] == WorkerId(1)) load[e] = 100;
  }
  problem.before = &before;
  problem.load = load;
  problem.moves_max = 2;
  EXPECT_EQ(PlaceExperts(problem)->CountNew(before), 2);
}

TEST(Placement, WithoutMemoryForReplicasItMovesOnly) {
  PlacementProblem problem = Problem(2, 8);
  for (auto& worker : problem.workers) worker.slots = 4;
  const Placement before = *PlaceExperts(problem);
  const std::vector<double> load = {500, 1, 1, 1, 1, 1, 1, 1};
  problem.before = &before;
  problem.load = load;
  problem.replicas_max = 4;
  problem.moves_max = 8;
  const Placement after = *PlaceExperts(problem);
  for (const Placement::Homes& homes : after.layers[0]) EXPECT_THAT(homes, SizeIs(1));
}

// Whatever comes and goes: every expert has a home among those that are there, and nobody holds more than it can.
TEST(Placement, HoldsUnderRandomHistories) {
  std::mt19937 rng(1);
  for (int history = 0; history < 200; ++history) {
    const int experts = 1 + static_cast<int>(rng() % 40), layers = 1 + static_cast<int>(rng() % 3);
    std::optional<Placement> before;
    std::vector<PlacementProblem::Worker> workers;
    uint32_t next = 1;
    for (int change = 0; change < 20; ++change) {
      if (workers.empty() || rng() % 2 == 0) {
        workers.push_back({.id = WorkerId(next++), .slots = static_cast<int>(rng() % (experts * layers + 1))});
      } else {
        workers.erase(workers.begin() + static_cast<std::ptrdiff_t>(rng() % workers.size()));
      }
      if (workers.empty()) continue;
      std::vector<double> load(static_cast<size_t>(experts * layers));
      for (double& rows : load) rows = rng() % 8 == 0 ? 1000 : static_cast<double>(rng() % 20);
      PlacementProblem problem{.layers = layers,
                               .experts = experts,
                               .workers = workers,
                               .before = before ? &*before : nullptr,
                               .load = load,
                               .replicas_max = static_cast<int>(rng() % 4),
                               .moves_max = static_cast<int>(rng() % 8)};
      std::optional<Placement> after = PlaceExperts(problem);
      ASSERT_EQ(after.has_value(), HaveMemory(problem)) << "no slot is wasted, whatever is left over";
      if (!after) continue;
      ASSERT_THAT(after->layers, SizeIs(layers));
      for (const auto& worker : workers) {
        int held = 0;
        for (size_t layer = 0; layer < after->layers.size(); ++layer) {
          const int of_layer = Held(*after, worker.id.value, layer);
          ASSERT_LE(of_layer, (worker.slots + layers - 1) / layers) << "all of it is to fit a share of the memory";
          held += of_layer;
        }
        ASSERT_LE(held, worker.slots);
      }
      for (const auto& layer : after->layers) {
        ASSERT_THAT(layer, SizeIs(experts));
        for (const Placement::Homes& homes : layer) {
          ASSERT_FALSE(homes.empty());
          for (WorkerId id : homes) {
            ASSERT_TRUE(std::any_of(workers.begin(), workers.end(), [id](const auto& w) { return w.id == id; }));
            ASSERT_EQ(std::count(homes.begin(), homes.end(), id), 1);
          }
        }
      }
      before = std::move(after);
    }
  }
}

TEST(Placement, SpellsRanksForTheWire) {
  Placement placement;
  placement.layers = {{{WorkerId(5)}, {WorkerId(5), WorkerId(9)}, {WorkerId(7)}}};
  const std::vector<WorkerId> ranks = {WorkerId(5), WorkerId(7), WorkerId(9)};
  const std::vector<v1::LayerPlacement> proto = placement.ToProto(ranks);
  ASSERT_THAT(proto, SizeIs(1));
  EXPECT_THAT(proto[0].replicas(), ElementsAre(1, 2, 1));
  EXPECT_THAT(proto[0].ranks(), ElementsAre(0, 0, 2, 1));
}

}  // namespace
}  // namespace braid
