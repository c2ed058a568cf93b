#include "router/group.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace braid {
namespace {

Group TwoWorkers() {
  return Group(
      Epoch(1), 16,
      {{.id = WorkerId(1), .kv_blocks_total = 100, .sequences_max = 2, .step_tokens_max = 64, .snapshots_max = 4},
       {.id = WorkerId(2), .kv_blocks_total = 10, .sequences_max = 2, .step_tokens_max = 64, .snapshots_max = 4}});
}

// Holds blocks as sequences do.
struct Held {
  explicit Held(Group* group) : group(group) {}
  void Reserve(int rank, uint64_t blocks, const Beginning& beginning = {}) {
    leases.push_back(group->worker(rank).ledger->Reserve(blocks, beginning));
  }
  Group* group;
  std::vector<KvLease> leases;
};

TEST(Group, RoundsTokensUpToBlocks) {
  EXPECT_EQ(TwoWorkers().BlocksFor(1), 1u);
  EXPECT_EQ(TwoWorkers().BlocksFor(16), 1u);
  EXPECT_EQ(TwoWorkers().BlocksFor(17), 2u);
}

TEST(Group, PicksTheSmallerShareNotTheSmallerNumber) {
  Group group = TwoWorkers();
  Held held(&group);
  held.Reserve(0, 20);  // a fifth
  held.Reserve(1, 5);   // a half
  EXPECT_EQ(group.PickOwner(1), 0);
}

TEST(Group, PicksOnlyWhoHasRoom) {
  Group group = TwoWorkers();
  Held held(&group);
  EXPECT_EQ(group.PickOwner(11), 0);
  EXPECT_EQ(group.PickOwner(101), std::nullopt);
  held.Reserve(0, 95);
  EXPECT_EQ(group.PickOwner(10), 1);
  EXPECT_EQ(group.PickOwner(11), std::nullopt);
}

TEST(Group, PicksNobodyBeyondTheSequencesOfAWorker) {
  Group group = TwoWorkers();
  Held held(&group);
  for (int i = 0; i < 2; ++i) held.Reserve(0, 1), held.Reserve(1, 1);
  EXPECT_EQ(group.PickOwner(1), std::nullopt);
  held.leases.pop_back();
  EXPECT_EQ(group.PickOwner(1), 1);
}

TEST(Group, AddsUpItsMemory) {
  Group group = TwoWorkers();
  Held held(&group);
  held.Reserve(0, 3);
  held.Reserve(1, 4);
  EXPECT_EQ(group.kv_blocks_used(), 7u);
  EXPECT_EQ(group.kv_blocks_total(), 110u);
  EXPECT_EQ(group.tokens_max(), 1600u);
}

TEST(Group, PicksWhoKnowsTheBeginningUnlessItIsMuchBusier) {
  Group group(Epoch(1), 16,
              {{.id = WorkerId(1), .kv_blocks_total = 100, .sequences_max = 9, .snapshots_max = 4},
               {.id = WorkerId(2), .kv_blocks_total = 100, .sequences_max = 9, .snapshots_max = 4}});
  Held held(&group);
  const std::vector<TokenId> tokens(64, 7);
  std::vector<uint64_t> hashes;
  ExtendHashes("", tokens, 16, &hashes);
  const Beginning beginning{"", tokens, hashes};
  held.Reserve(1, 10);
  group.worker(1).ledger->Save(held.leases[0], beginning, KvLedger::Place::kEndOfPrompt);
  EXPECT_EQ(group.PickOwner(10, beginning), 0) << "it is not there yet";
  group.worker(1).ledger->CommitSaves();
  EXPECT_EQ(group.PickOwner(10), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(group.PickOwner(10, beginning), 1);
    held.Reserve(1, 10, beginning);
  }
  EXPECT_EQ(group.PickOwner(10, beginning), 0);
}

}  // namespace
}  // namespace braid
