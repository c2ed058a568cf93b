#include "router/kv_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Place = KvLedger::Place;
constexpr int kBlock = 4;

// A sequence's tokens with their hashes.
struct Tokens {
  explicit Tokens(std::vector<TokenId> log, std::string scope = "") : scope(std::move(scope)), log(std::move(log)) {
    ExtendHashes(this->scope, this->log, kBlock, &hashes);
  }
  // The blocks behind [0, tokens), which is a multiple of the block; all of them by default.
  Beginning First(size_t tokens) const { return Whole().First(tokens / kBlock, kBlock); }
  Beginning Whole() const { return {scope, std::span(log).first(hashes.size() * kBlock), hashes}; }
  std::string scope;
  std::vector<TokenId> log;
  std::vector<uint64_t> hashes;
};

// `count` tokens, the first `same` of which are the same for every `kind`.
Tokens Log(int count, int same = 0, int kind = 0, std::string scope = "") {
  std::vector<TokenId> log(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) log[static_cast<size_t>(i)] = i < same ? i : 1000 * (kind + 1) + i;
  return Tokens(std::move(log), std::move(scope));
}

std::shared_ptr<KvLedger> NewLedger(uint64_t blocks = 100, int snapshots_max = 10) {
  return std::make_shared<KvLedger>(blocks, kBlock, snapshots_max);
}

// Saves and commits.
std::optional<SnapshotId> Save(KvLedger& ledger, KvLease& lease, const Beginning& beginning,
                               Place place = Place::kEndOfPrompt) {
  const auto id = ledger.Save(lease, beginning, place);
  ledger.CommitSaves();
  return id;
}

TEST(KvLedger, FindsTheLongestBeginning) {
  const auto ledger = NewLedger();
  const Tokens log = Log(40);
  KvLease lease = ledger->Reserve(10, log.Whole());
  Save(*ledger, lease, log.First(8));
  const auto second = Save(*ledger, lease, log.First(20));
  EXPECT_EQ(ledger->CachedTokens(log.First(4)), 0);
  EXPECT_EQ(ledger->CachedTokens(log.First(16)), 8);
  EXPECT_EQ(ledger->CachedTokens(log.Whole()), 20);
  EXPECT_EQ(ledger->CachedTokens(Log(40, 0, 1).Whole()), 0);
  const KvLease other = ledger->Reserve(10, log.Whole());
  EXPECT_EQ(other.resume(), *second);
  EXPECT_EQ(other.resumed_tokens(), 20);
}

TEST(KvLedger, NothingIsFoundBeforeItsStepIsCommittedOrIfThatNeverHappened) {
  const auto ledger = NewLedger();
  const Tokens log = Log(16);
  KvLease lease = ledger->Reserve(4, {});
  EXPECT_TRUE(ledger->Save(lease, log.First(8), Place::kEndOfPrompt));
  EXPECT_EQ(ledger->CachedTokens(log.Whole()), 0);
  ledger->VoidSaves();
  EXPECT_EQ(ledger->CachedTokens(log.Whole()), 0);
  EXPECT_THAT(ledger->Snapshots(), IsEmpty());
  EXPECT_TRUE(Save(*ledger, lease, log.First(8))) << "the step comes again";
  EXPECT_EQ(ledger->CachedTokens(log.Whole()), 8);
  EXPECT_EQ(ledger->blocks_used(), 4u);
}

TEST(KvLedger, WhatComesAgainAfterAVoidStepMayBeCutInAnotherWay) {
  const auto ledger = NewLedger();
  const Tokens log = Log(24);
  KvLease lease = ledger->Reserve(6, {});
  ledger->Save(lease, log.First(16), Place::kEndOfPrompt);
  ledger->VoidSaves();
  EXPECT_FALSE(Save(*ledger, lease, log.First(8))) << "inside of a segment that is there already";
  EXPECT_TRUE(Save(*ledger, lease, log.First(16)));
  EXPECT_TRUE(Save(*ledger, lease, log.First(20)));
  EXPECT_EQ(ledger->CachedTokens(log.Whole()), 20);
  lease.Reset();
  EXPECT_EQ(ledger->blocks_cached(), 5u);
}

TEST(KvLedger, SharesNothingBetweenScopes) {
  const auto ledger = NewLedger();
  const Tokens mine = Log(16, 0, 0, "a"), yours = Log(16, 0, 0, "b");
  KvLease lease = ledger->Reserve(4, mine.Whole());
  Save(*ledger, lease, mine.First(16));
  EXPECT_EQ(ledger->CachedTokens(mine.Whole()), 16);
  EXPECT_EQ(ledger->CachedTokens(yours.Whole()), 0);
  // Not even if the hashes were the same.
  EXPECT_EQ(ledger->CachedTokens({yours.scope, mine.log, mine.hashes}), 0);
}

TEST(KvLedger, ComparesTokensAndNotOnlyHashes) {
  const auto ledger = NewLedger();
  const Tokens log = Log(16), other = Log(16, 0, 1);
  KvLease lease = ledger->Reserve(4, log.Whole());
  Save(*ledger, lease, log.First(8));
  Save(*ledger, lease, log.First(16));
  EXPECT_EQ(ledger->CachedTokens({"", other.log, log.hashes}), 0);
  std::vector<TokenId> half = log.log;
  half[9] = 1;
  EXPECT_EQ(ledger->CachedTokens({"", half, log.hashes}), 8);
}

TEST(KvLedger, CountsSharedBlocksOnce) {
  const auto ledger = NewLedger();
  const Tokens log = Log(40);
  KvLease first = ledger->Reserve(10, {});
  Save(*ledger, first, log.First(32));
  EXPECT_EQ(ledger->blocks_used(), 10u);
  EXPECT_EQ(ledger->blocks_cached(), 0u);
  KvLease second = ledger->Reserve(10, log.Whole());
  EXPECT_EQ(second.blocks(), 10u);
  EXPECT_EQ(ledger->blocks_used(), 12u);
  first.Reset();
  EXPECT_EQ(ledger->blocks_used(), 10u);
  EXPECT_EQ(ledger->sequences(), 1);
  second.Reset();
  EXPECT_EQ(ledger->blocks_used(), 0u);
  EXPECT_EQ(ledger->blocks_cached(), 8u);
}

TEST(KvLedger, WhatOnlySnapshotsHoldIsFreeForTheAsking) {
  const auto ledger = NewLedger(10);
  const Tokens old = Log(32, 0, 0), recent = Log(8, 0, 1);
  KvLease lease = ledger->Reserve(8, {});
  const auto inner = Save(*ledger, lease, old.First(16)), leaf = Save(*ledger, lease, old.First(32));
  lease = ledger->Reserve(2, {});
  const auto last = Save(*ledger, lease, recent.First(8));
  lease.Reset();
  EXPECT_EQ(ledger->blocks_cached(), 10u);
  EXPECT_TRUE(ledger->HasRoom(10, {}));
  EXPECT_FALSE(ledger->HasRoom(11, {}));

  lease = ledger->Reserve(3, {});
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(*leaf)) << "the least recently used, but nothing others stand on";
  KvLease more = ledger->Reserve(5, {});
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(*inner));
  EXPECT_THAT(ledger->Snapshots(), ElementsAre(*last));
  EXPECT_FALSE(ledger->HasRoom(3, {}));
}

TEST(KvLedger, DropsTheLeastRecentlyUsed) {
  const auto ledger = NewLedger(100, 2);
  const Tokens a = Log(8, 0, 0), b = Log(8, 0, 1), c = Log(8, 0, 2);
  KvLease one = ledger->Reserve(2, {}), two = ledger->Reserve(2, {}), three = ledger->Reserve(2, {});
  Save(*ledger, one, a.First(8));
  const auto unused = Save(*ledger, two, b.First(8));
  ledger->Reserve(2, a.First(4));
  KvLease user = ledger->Reserve(3, a.Whole());
  user.OnStarted();
  Save(*ledger, three, c.First(8));
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(*unused));
}

TEST(KvLedger, PlacesOnTheWayThatNobodyHasUsedGoBeforeEndsOfPrompts) {
  const auto ledger = NewLedger(100, 6);
  std::vector<std::pair<SnapshotId, SnapshotId>> saved;  // on the way, end
  std::vector<KvLease> leases;
  for (int i = 0; i < 3; ++i) {
    const Tokens log = Log(16, 0, i);
    leases.push_back(ledger->Reserve(4, {}));
    const auto on_the_way = Save(*ledger, leases.back(), log.First(8), Place::kOnTheWay);
    saved.emplace_back(*on_the_way, *Save(*ledger, leases.back(), log.First(16)));
  }
  KvLease user = ledger->Reserve(4, Log(12, 0, 0).Whole());  // of the first one's
  user.OnStarted();
  leases.push_back(ledger->Reserve(4, {}));
  const auto next = Save(*ledger, leases.back(), Log(16, 0, 3).First(8), Place::kOnTheWay);
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(saved[1].first));
  Save(*ledger, leases.back(), Log(16, 0, 3).First(16));
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(saved[2].first));
  leases.push_back(ledger->Reserve(4, {}));
  Save(*ledger, leases.back(), Log(16, 0, 4).First(16));
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(saved[0].second)) << "the last one on the way is recent";
  EXPECT_EQ(ledger->CachedTokens(Log(16, 0, 3).First(8)), 8) << next->value;
}

TEST(KvLedger, KeepsWhatASequenceIsStillToBeginWith) {
  const auto ledger = NewLedger(100, 1);
  const Tokens a = Log(8, 0, 0), b = Log(8, 0, 1);
  KvLease first = ledger->Reserve(2, {});
  Save(*ledger, first, a.First(8));
  KvLease second = ledger->Reserve(4, a.Whole());
  EXPECT_FALSE(Save(*ledger, second, b.First(8))) << "there is no place";
  second.OnStarted();
  KvLease third = ledger->Reserve(2, {});
  EXPECT_TRUE(Save(*ledger, third, b.First(8)));
}

TEST(KvLedger, WhatIsSavedTwiceInAStepIsSavedOnce) {
  const auto ledger = NewLedger();
  const Tokens log = Log(16);
  KvLease one = ledger->Reserve(4, {}), two = ledger->Reserve(4, {});
  EXPECT_TRUE(ledger->Save(one, log.First(8), Place::kEndOfPrompt));
  EXPECT_FALSE(ledger->Save(two, log.First(8), Place::kEndOfPrompt));
  EXPECT_TRUE(ledger->Save(two, log.First(16), Place::kEndOfPrompt)) << "with blocks of its own";
  ledger->CommitSaves();
  one.Reset();
  two.Reset();
  EXPECT_EQ(ledger->blocks_cached(), 6u);
}

TEST(KvLedger, OfAnAnswerTheLastIsKept) {
  const auto ledger = NewLedger();
  const Tokens log = Log(32);
  KvLease lease = ledger->Reserve(8, {});
  const auto prompt = Save(*ledger, lease, log.First(8));
  const auto first = Save(*ledger, lease, log.First(12), Place::kInAnswer);
  const auto second = ledger->Save(lease, log.First(16), Place::kInAnswer);
  EXPECT_THAT(ledger->TakeDropped(), IsEmpty()) << "as long as that may be void";
  ledger->CommitSaves();
  EXPECT_THAT(ledger->TakeDropped(), ElementsAre(*first));
  KvLease other = ledger->Reserve(8, log.First(16));
  EXPECT_EQ(other.resume(), *second);
  const auto third = Save(*ledger, lease, log.First(20), Place::kInAnswer);
  EXPECT_THAT(ledger->TakeDropped(), IsEmpty()) << "somebody has used it";
  EXPECT_THAT(ledger->Snapshots(), testing::UnorderedElementsAre(*prompt, *second, *third));
}

TEST(KvLedger, KeepsNothingForAWorkerThatCannot) {
  const auto ledger = NewLedger(100, 0);
  const Tokens log = Log(8);
  KvLease lease = ledger->Reserve(2, log.Whole());
  EXPECT_FALSE(Save(*ledger, lease, log.First(8)));
}

// The worker's side: it counts references block by block. Whatever happens, it has what the ledger says it has.
class Worker {
 public:
  explicit Worker(uint64_t total) : total_(total) {}
  std::vector<int> Start(uint64_t blocks, SnapshotId resume) {
    std::vector<int> held = resume.value != 0 ? snapshots_.at(resume) : std::vector<int>();
    for (int block : held) ++references_[block];
    while (held.size() < blocks) {
      held.push_back(++last_);
      ++references_[held.back()];
    }
    EXPECT_LE(used(), total_);
    return held;
  }
  void Save(SnapshotId id, const std::vector<int>& held, size_t blocks) {
    snapshots_[id] = {held.begin(), held.begin() + static_cast<std::ptrdiff_t>(blocks)};
    for (int block : snapshots_[id]) ++references_[block];
  }
  void Release(const std::vector<int>& held) {
    for (int block : held) {
      if (--references_[block] == 0) references_.erase(block);
    }
  }
  void Drop(SnapshotId id) {
    if (snapshots_.contains(id)) Release(snapshots_[id]);
    snapshots_.erase(id);
  }
  void KeepOnly(const std::vector<SnapshotId>& kept) {
    std::map<SnapshotId, std::vector<int>> before = std::exchange(snapshots_, {});
    for (SnapshotId id : kept) {
      ASSERT_TRUE(before.contains(id));
      snapshots_.insert(before.extract(id));
    }
    for (const auto& [id, held] : before) Release(held);
  }
  uint64_t used() const { return references_.size(); }
  size_t snapshots() const { return snapshots_.size(); }

 private:
  const uint64_t total_;
  int last_ = 0;
  std::map<int, int> references_;
  std::map<SnapshotId, std::vector<int>> snapshots_;
};

TEST(KvLedger, CountsAsItsWorkerDoes) {
  struct Running {
    Tokens log;
    KvLease lease;
    std::vector<int> held;
    int computed;
  };
  std::mt19937_64 random(5);
  const auto below = [&random](uint64_t n) { return random() % n; };
  for (int round = 0; round < 60; ++round) {
    const uint64_t total = 20 + below(60);
    const int snapshots_max = static_cast<int>(below(12));
    const auto ledger = NewLedger(total, snapshots_max);
    Worker worker(total);
    std::vector<Running> running;
    for (int step = 0; step < 300; ++step) {
      std::vector<std::vector<int>> releases;
      for (int i = 0; i < 2; ++i) {  // some end
        if (running.empty() || below(3) == 0) continue;
        const size_t which = below(running.size());
        releases.push_back(running[which].held);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));
      }
      std::vector<size_t> starts;
      for (int i = 0; i < 3; ++i) {  // some come
        const int length = 1 + static_cast<int>(below(60));
        Tokens log = Log(length + 20, static_cast<int>(below(4)) * 15, static_cast<int>(below(3)));
        const Beginning resumable = log.First(static_cast<size_t>((length - 1) / kBlock * kBlock));
        const uint64_t blocks = static_cast<uint64_t>(length + 20 + kBlock - 1) / kBlock;
        if (!ledger->HasRoom(blocks, resumable)) continue;
        KvLease lease = ledger->Reserve(blocks, resumable);
        ASSERT_EQ(lease.blocks(), blocks);
        const int computed = lease.resumed_tokens();
        running.push_back({std::move(log), std::move(lease), {}, computed});
        starts.push_back(running.size() - 1);
      }
      // The plan: what it saves may drop something, which comes first.
      struct Saved {
        SnapshotId id;
        size_t sequence, blocks;
      };
      std::vector<Saved> saves;
      const bool is_void = below(8) == 0;
      std::vector<int> ends;
      for (size_t i = 0; i < running.size(); ++i) {
        Running& r = running[i];
        const int end = std::min<int>(r.computed + static_cast<int>(below(12)), static_cast<int>(r.log.log.size()));
        ends.push_back(end);
        for (int at = (r.computed / kBlock + 1) * kBlock; at <= end; at += kBlock) {
          if (at % 12 != 0 && below(2) == 0) continue;
          const auto id = ledger->Save(r.lease, r.log.First(static_cast<size_t>(at)),
                                       at > 40 ? Place::kInAnswer : Place::kOnTheWay);
          if (id) saves.push_back({*id, i, static_cast<size_t>(at / kBlock)});
        }
      }
      for (const auto& held : releases) worker.Release(held);
      for (SnapshotId id : ledger->TakeDropped()) worker.Drop(id);
      for (size_t i : starts) running[i].held = worker.Start(running[i].lease.blocks(), running[i].lease.resume());
      for (const Saved& save : saves) worker.Save(save.id, running[save.sequence].held, save.blocks);
      ASSERT_LE(worker.snapshots(), static_cast<size_t>(snapshots_max));
      if (is_void) {
        ledger->VoidSaves();
        ledger->TakeDropped();
        worker.KeepOnly(ledger->Snapshots());
      } else {
        ledger->CommitSaves();
        for (size_t i = 0; i < running.size(); ++i) {
          running[i].computed = ends[i];
          running[i].lease.OnStarted();
        }
      }
      ASSERT_LE(ledger->blocks_used() + ledger->blocks_cached(), total);
    }
    // What is to be dropped with the next plan is dropped.
    for (const Running& r : running) worker.Release(r.held);
    running.clear();
    for (SnapshotId id : ledger->TakeDropped()) worker.Drop(id);
    EXPECT_EQ(ledger->blocks_used(), 0u);
    EXPECT_EQ(ledger->blocks_cached(), worker.used());
    EXPECT_THAT(ledger->Snapshots(), SizeIs(worker.snapshots()));
  }
}

}  // namespace
}  // namespace braid
