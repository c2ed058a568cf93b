#include "expert_worker/cuda/device_expert_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>

#include "base/planted_bug.h"
#include "expert_worker/cuda/test_exchange.h"
#include "expert_worker/cuda/test_experts.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/simt.h"

namespace braid::gpu {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class DeviceExpertParallel : public testing::Test {
 protected:
  DeviceExpertParallel() {
    fake::Reset();
    fake::SetDevices(4);
  }
  ~DeviceExpertParallel() override { fake::Reset(); }
};

// Of groups. A thread of a block is a megabyte to ThreadSanitizer, and the kernels here have blocks of many.
std::vector<int> Sizes() { return simt::kManyThreads ? std::vector<int>{1, 2, 3, 4} : std::vector<int>{2}; }

template <typename T>
class OnRanks : public DeviceExpertParallel {};
using Types = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(OnRanks, Types);

TYPED_TEST(OnRanks, GivesTheBitsOfOneInSlotsAndExactly) {
  for (const int size : Sizes()) {
    std::vector<std::vector<Rows>> rows(size);
    const std::vector<int> rows_max = {1, 5, 8, 20, 3, 24};  // beyond 8 exactly, beyond 8 in passes
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < static_cast<int>(rows_max.size()); ++step) {
        const int T = RowsOf(rank, step, rows_max[step]);
        rows[rank].emplace_back(T, rows_max[step] <= 8 ? 8 : T, 100 * rank + step);
      }
    }
    const std::vector<std::vector<float>> expected = Alone<TypeParam>(rows);
    TestNetwork network(size);
    std::vector<std::vector<uint64_t>> expert_rows(size);
    simt::SetSeed(size);
    OnEachRank(size, [&](int at) {
      TestExchange exchange(&network, at);
      Rank<TypeParam> rank(size == 1 ? nullptr : &exchange, at, RandomPlacement(size, size), size, kSmall);
      std::vector<float> sums;
      for (size_t step = 0; step < rows_max.size(); ++step) {
        rank.Set(rows[at][step]);
        ASSERT_EQ(rank.RunStep(step + 1, rows_max[step]), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
        EXPECT_EQ(rank.parallel->capturable(), size == 1 || rows_max[step] <= 8);
      }
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
      // Two phases for a pass of a layer: three passes for each step of more than sixteen.
      EXPECT_EQ(exchange.exact_phases(), size == 1 ? 0 : 2 * 2 * (3 + 3));
      expert_rows[at] = rank.parallel->TakeExpertRows();
      EXPECT_THAT(rank.parallel->TakeExpertRows(), testing::Each(0));
    });
    for (int layer = 0; layer < kConfig.moe_layer_count(); ++layer) {
      for (int e = 0; e < kExperts; ++e) {
        uint64_t asked = 0, computed = 0;
        for (int rank = 0; rank < size; ++rank) {
          for (const Rows& step : rows[rank]) asked += std::count(step.experts.begin(), step.experts.end(), e);
          computed += expert_rows[rank][layer * kExperts + e];
        }
        EXPECT_EQ(computed, asked);
      }
    }
  }
}

TYPED_TEST(OnRanks, GivesTheBitsOfOneFromAGraph) {
  for (const int size : Sizes()) {
    TestNetwork network(size);
    std::vector<std::vector<Rows>> rows(size);
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < 4; ++step) rows[rank].emplace_back(RowsOf(rank, step, 4), 4, 7 + 100 * rank + step);
    }
    const std::vector<std::vector<float>> expected = Alone<TypeParam>(rows);
    simt::SetSeed(size);
    OnEachRank(size, [&](int at) {
      TestExchange exchange(&network, at);
      Rank<TypeParam> rank(size == 1 ? nullptr : &exchange, at, RandomPlacement(size, 3), size, kSmall);
      rank.Set(rows[at][0]);
      rank.parallel->BeginStep(1, 4);
      const uint64_t shape = rank.parallel->capture_shape();
      const GraphExec graph = rank.Capture();
      std::vector<float> sums;
      for (int step = 0; step < 4; ++step) {
        rank.Set(rows[at][step]);
        if (step > 0) rank.parallel->BeginStep(1 + step, 3 + step % 2);
        EXPECT_EQ(rank.parallel->capture_shape(), shape);
        ASSERT_EQ(rank.Launch(graph), absl::OkStatus());
        ASSERT_EQ(rank.Wait(), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
      }
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
      rank.parallel->BeginStep(20, 5);
      EXPECT_EQ(rank.parallel->capture_shape() != shape, size > 1);
    });
  }
}

// Steps in halves on all ranks: whether each has the bits of one device that has all experts.
class Halves {
 public:
  Halves() {
    for (int rank = 0; rank < kSize; ++rank) {
      for (size_t step = 0; step < rows_max_.size(); ++step) {
        const int T = RowsOf(rank, static_cast<int>(step), rows_max_[step]);
        rows_[rank].emplace_back(T, rows_max_[step] <= 8 ? 8 : T, 100 * rank + static_cast<int>(step));
      }
    }
    expected_ = Alone<float>(rows_);
  }

  bool AreRight(uint64_t seed, Bug bug = Bug::kNone) {
    simt::SetSeed(seed);
    TestNetwork network(kSize);
    std::vector<char> right(kSize);
    OnEachRank(kSize, [&](int at) {
      planted_bug = bug;
      right[at] = RunRank(at, &network);
    });
    return std::count(right.begin(), right.end(), true) == kSize;
  }

 private:
  static constexpr int kSize = simt::kManyThreads ? 3 : 2;

  bool RunRank(int at, TestNetwork* network) {
    TestExchange exchange(network, at);
    ExpertParallel::Options options = kSmall;
    options.overlap_rows = 4;
    Rank<float> rank(&exchange, at, RandomPlacement(kSize, 2), kSize, options);
    GraphExec graph;
    std::vector<float> sums;
    bool right = true;
    for (size_t step = 0; step < rows_max_.size(); ++step) {
      rank.Set(rows_[at][step]);
      rank.parallel->BeginStep(step + 1, rows_max_[step]);
      EXPECT_EQ(rank.parallel->half_rows() > 0, rows_max_[step] >= 4 && rows_max_[step] <= 16);
      const bool captured = rank.parallel->capturable() && rows_max_[step] > 4;  // class 8
      if (captured && !graph) graph = rank.Capture();
      right = (captured ? rank.Launch(graph) : rank.Enqueue()).ok() && right;
      right = rank.Wait().ok() && right;
      const std::vector<float> one = rank.Sums();
      sums.insert(sums.end(), one.begin(), one.end());
    }
    return right && SameBits(sums, expected_[at]);
  }

  // Up to 8 in slots, beyond that exactly, beyond 16 in passes one after the other.
  const std::vector<int> rows_max_ = {3, 4, 8, 20, 13, 7, 24, 8};
  std::vector<std::vector<Rows>> rows_ = std::vector<std::vector<Rows>>(kSize);
  std::vector<std::vector<float>> expected_;
};

TEST_F(DeviceExpertParallel, GivesTheBitsOfOneInHalves) {
  Halves halves;
  for (uint64_t seed = 0; seed < (simt::kManyThreads ? 6 : 1); ++seed) EXPECT_TRUE(halves.AreRight(seed)) << seed;
}

TEST_F(DeviceExpertParallel, IsWrongWhereAStreamForgetsToAwaitTheOther) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const Bug bug : {Bug::kForgetsToAwaitRows, Bug::kForgetsToAwaitComputing}) {
#if defined(__SANITIZE_THREAD__)
    EXPECT_EXIT(Halves().AreRight(0, bug), testing::ExitedWithCode(66), "data race");
#else
    Halves halves;
    int wrong = 0;
    for (uint64_t seed = 0; seed < 6; ++seed) wrong += !halves.AreRight(seed, bug);
    EXPECT_GT(wrong, 0);
#endif
  }
}

// The host knows of a step what it knows of it when it is waited for, though the one behind has begun.
TEST_F(DeviceExpertParallel, AStepThatIsDroppedInItsMiddleEndsBeforeWhatComesBehindIt) {
  TestNetwork network(2);
  std::atomic<bool> looked = false;
  OnEachRank(2, [&](int at) {
    TestExchange exchange(&network, at);
    ExpertParallel::Options options = kSmall;
    options.overlap_rows = 4;
    Rank<float> rank(&exchange, at, RandomPlacement(2, 2), 2, options);
    rank.Set(Rows(7, 7, 1));
    while (at == 1 && !looked) std::this_thread::yield();  // its half of the exchange is awaited
    rank.parallel->BeginStep(1, 13);
    const RoutedRows half{
        kDenseLayers,    7, kDim, kChosen, DType::kF32, rank.x.data(), rank.experts.data(), rank.weights.data(),
        rank.y[0].data()};
    EXPECT_EQ(rank.parallel->EnqueueBegin(rank.stream.get()), absl::OkStatus());
    EXPECT_EQ(rank.parallel->Begin(0, half, rank.stream.get()), absl::OkStatus());
    rank.parallel->Drop(rank.stream.get());
    EXPECT_EQ(cudaEventRecord(rank.end.get(), rank.stream.get()), cudaSuccess);
    for (int look = 0; at == 0 && look < 100; ++look) EXPECT_EQ(cudaEventQuery(rank.end.get()), cudaErrorNotReady);
    if (at == 0) looked = true;
    EXPECT_EQ(cudaEventSynchronize(rank.end.get()), cudaSuccess);
  });
}

TEST_F(DeviceExpertParallel, RunsAStepBehindOneThatNobodyHasWaitedFor) {
  for (const int size : {1, 3}) {
    TestNetwork network(size);
    constexpr int kSteps = 6;
    std::vector<std::vector<Rows>> rows(size);
    for (int rank = 0; rank < size; ++rank) rows[rank].emplace_back(1 + rank, 4, rank);
    const std::vector<std::vector<float>> expected = Alone<float>(rows);
    std::vector<uint64_t> computed(size);
    OnEachRank(size, [&](int at) {
      TestExchange exchange(&network, at);
      Rank<float> rank(size == 1 ? nullptr : &exchange, at, RandomPlacement(size, 1), size, kSmall);
      EXPECT_TRUE(rank.parallel->CanBeginAhead(4));
      EXPECT_EQ(rank.parallel->CanBeginAhead(kStepTokens), size == 1) << "a host waits for counts";
      rank.Set(rows[at][0]);
      std::vector<Event> ends;
      const auto begin = [&](uint64_t step) {
        rank.parallel->BeginStep(step, 4);
        ASSERT_EQ(rank.Enqueue(), absl::OkStatus());
        ends.push_back(*CreateEvent());
        ASSERT_EQ(cudaEventRecord(ends.back().get(), rank.stream.get()), cudaSuccess);
      };
      begin(1);
      std::vector<uint64_t> first;
      for (int step = 1; step <= kSteps; ++step) {
        if (step < kSteps) begin(static_cast<uint64_t>(step + 1));
        ASSERT_EQ(rank.parallel->Wait(ends[static_cast<size_t>(step - 1)].get()), absl::OkStatus()) << step;
        const std::vector<uint64_t> expert_rows = rank.parallel->TakeExpertRows();
        if (step == 1) first = expert_rows;
        EXPECT_EQ(expert_rows, first) << step;
      }
      computed[at] = std::accumulate(first.begin(), first.end(), uint64_t{0});
      EXPECT_TRUE(SameBits(rank.Sums(), expected[at]));
    });
    EXPECT_EQ(std::accumulate(computed.begin(), computed.end(), uint64_t{0}),
              static_cast<uint64_t>(kConfig.moe_layer_count() * kChosen * size * (size + 1) / 2));
  }
}

// Slots with room for the mean and no more, which is doubled when that is too little, and halved after three steps.
constexpr SlotRoom::Options kTight = {.multiple = 1, .deviations = 0, .more = 0, .steps_to_halve = 3, .spare_bytes = 0};

// Each rank has as many experts of each layer as any other.
std::vector<ExpertRanks> EvenPlacement(int size) {
  v1::LayerPlacement layer;
  for (int e = 0; e < kExperts; ++e) {
    layer.add_replicas(1);
    layer.add_ranks(e * size / kExperts);
  }
  return std::vector<ExpertRanks>(kConfig.moe_layer_count(), *ExpertRanks::Parse(layer, kExperts, size));
}

// Of two ranks, by a clock that stands while they compute, and that each operation of an exchange moves.
TEST_F(DeviceExpertParallel, SaysOfEachStepHowLongItsStreamExchanged) {
  constexpr absl::Duration kOnTheWay = absl::Milliseconds(1);
  constexpr int kSize = 2;
  // The first ones from a graph, two on the device at a time; then exactly, in two passes that have counts each.
  const std::vector<int> rows_max = {4, 4, 4, 4, 12, 4}, operations_of_layer = {2, 2, 2, 2, 6, 2};
  for (uint64_t seed = 0; seed < (simt::kManyThreads ? 4 : 1); ++seed) {
    simt::SetSeed(seed);
    simt::SetClock(uint64_t{1} << 60);
    TestNetwork network(kSize);
    OnEachRank(kSize, [&](int at) {
      TestExchange exchange(&network, at);
      exchange.done = [&] { simt::MoveClock(absl::ToInt64Nanoseconds(kOnTheWay)); };
      Rank<float> rank(&exchange, at, EvenPlacement(kSize), kSize, kSmall);
      GraphExec graph;
      std::deque<Event> ends;  // of steps that run
      size_t finished = 0;
      const auto finish = [&] {
        ASSERT_EQ(rank.parallel->Wait(ends.front().get()), absl::OkStatus());
        ends.pop_front();
        const int operations = operations_of_layer[finished++] * kConfig.moe_layer_count();
        const absl::Duration took = rank.parallel->TakeExchangeTime();
        EXPECT_GE(took, operations * kOnTheWay) << "step " << finished << " of rank " << at;
        EXPECT_LE(took, (operations + 1) * kSize * kOnTheWay) << "the other rank's may move the clock meanwhile, too";
      };
      for (size_t step = 0; step < rows_max.size(); ++step) {
        const bool alike = step > 0 && rows_max[step] == rows_max[step - 1];
        while (!ends.empty() && (!alike || ends.size() == 2)) finish();
        if (!alike) rank.Set(Rows(rows_max[step], rows_max[step], at));
        rank.parallel->BeginStep(step + 1, rows_max[step]);
        const bool captured = rank.parallel->capturable();
        if (captured && !graph) graph = rank.Capture();
        ASSERT_EQ(captured ? rank.Launch(graph) : rank.Enqueue(), absl::OkStatus());
        ends.push_back(*CreateEvent());
        ASSERT_EQ(cudaEventRecord(ends.back().get(), rank.stream.get()), cudaSuccess);
      }
      while (!ends.empty()) finish();
      EXPECT_EQ(rank.parallel->TakeExchangeTime(), absl::ZeroDuration());
    });
    simt::SetClock(0);
  }
}

// What a rank did in some steps.
struct Ran {
  std::vector<size_t> again;  // steps
  int runs_again = 0;
  std::vector<float> sums;
  uint64_t expert_rows = 0;
  size_t bytes_sent = 0;
};

// rows[rank][step], of up to 8 rows padded to 8, in slots with such room.
std::vector<Ran> RunInSlots(const std::vector<std::vector<Rows>>& rows, const SlotRoom::Options& room) {
  const int size = static_cast<int>(rows.size());
  TestNetwork network(size);
  ExpertParallel::Options options = kSmall;
  options.room = room;
  std::vector<Ran> ran(size);
  OnEachRank(size, [&](int at) {
    TestExchange exchange(&network, at);
    Rank<float> rank(&exchange, at, EvenPlacement(size), size, options);
    for (size_t step = 0; step < rows[at].size(); ++step) {
      rank.Set(rows[at][step]);
      absl::Status status = rank.RunStep(step + 1, 8);
      if (absl::IsResourceExhausted(status)) {
        ran[at].again.push_back(step);
        EXPECT_TRUE(rank.parallel->suspects().empty());
        EXPECT_FALSE(rank.parallel->capturable()) << "exactly";
        EXPECT_EQ(rank.Enqueue(), absl::OkStatus());
        status = rank.Wait();
      }
      ASSERT_EQ(status, absl::OkStatus());
      const std::vector<float> sums = rank.Sums();
      ran[at].sums.insert(ran[at].sums.end(), sums.begin(), sums.end());
      for (const uint64_t computed : rank.parallel->TakeExpertRows()) ran[at].expert_rows += computed;
    }
    ran[at].runs_again = rank.parallel->TakeRunsAgain();
    EXPECT_EQ(rank.parallel->TakeRunsAgain(), 0);
    ran[at].bytes_sent = exchange.bytes_sent();
  });
  return ran;
}

TEST_F(DeviceExpertParallel, AHotExpertCostsOneStepRunAgainAndNotEachOne) {
  const int size = simt::kManyThreads ? 3 : 2;
  for (uint64_t seed = 0; seed < (simt::kManyThreads ? 4 : 1); ++seed) {
    simt::SetSeed(seed);
    // Seven steps that want experts of one rank before all: of the first, then of the last.
    std::vector<std::vector<Rows>> rows(size);
    uint64_t asked = 0;
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < 7; ++step) {
        const int T = rank == 1 ? 8 : RowsOf(rank, step, 8);
        asked += T * kChosen * kConfig.moe_layer_count();
        rows[rank].emplace_back(T, 8, 1000 * seed + 100 * rank + step);
        for (int t = 0; t < T; ++t) {
          const int hot = step < 4 ? 0 : kExperts - kExperts / size;
          for (int k = 0; k < kChosen; ++k) rows[rank].back().experts[t * kChosen + k] = (hot + k) % kExperts;
        }
      }
    }
    const std::vector<std::vector<float>> expected = Alone<float>(rows);
    const std::vector<Ran> tight = RunInSlots(rows, kTight), whole = RunInSlots(rows, {});
    uint64_t computed = 0;
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_THAT(tight[rank].again, ElementsAre(0, 4))
          << "on rank " << rank << ": too little, doubled, halved, doubled";
      EXPECT_EQ(tight[rank].runs_again, 2);
      EXPECT_TRUE(SameBits(tight[rank].sums, expected[rank])) << rank;
      EXPECT_THAT(whole[rank].again, ElementsAre());
      EXPECT_TRUE(SameBits(whole[rank].sums, expected[rank])) << rank;
      computed += tight[rank].expert_rows;
    }
    EXPECT_EQ(computed, asked) << "what was void does not count";
  }
}

TEST_F(DeviceExpertParallel, SlotsThatFitCarryLess) {
  const int size = simt::kManyThreads ? 3 : 2;
  for (uint64_t seed = 0; seed < (simt::kManyThreads ? 4 : 1); ++seed) {
    simt::SetSeed(seed);
    std::vector<std::vector<Rows>> rows(size);
    for (int rank = 0; rank < size; ++rank)
      for (int step = 0; step < 4; ++step)
        rows[rank].emplace_back(RowsOf(rank, step, 8), 8, 1000 * seed + 100 * rank + step);
    const std::vector<std::vector<float>> expected = Alone<float>(rows);
    SlotRoom::Options options = kTight;
    options.multiple = 1.5;  // random rows may have more
    const std::vector<Ran> fitting = RunInSlots(rows, options), whole = RunInSlots(rows, {});
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_EQ(fitting[rank].again, fitting[0].again) << "all alike";
      EXPECT_TRUE(SameBits(fitting[rank].sums, expected[rank])) << rank;
      EXPECT_TRUE(SameBits(whole[rank].sums, expected[rank])) << rank;
      if (fitting[rank].again.empty()) {
        EXPECT_LT(fitting[rank].bytes_sent, whole[rank].bytes_sent);
      }
    }
  }
}

// Steps of the same rows, of which some do not fit, as the room for them is halved again and again. Now and then a rank
// begins one ahead; the others know nothing of that.
class Ahead {
 public:
  explicit Ahead(int overlap_rows) {
    options_.overlap_rows = overlap_rows;
    options_.room = kTight;
    options_.room.multiple = 0.5;
    options_.room.steps_to_halve = 2;
    for (int rank = 0; rank < kSize; ++rank) {
      rows_[rank].emplace_back(rank == 1 ? 8 : 3 + rank, 8, 100 + rank);
      for (int i = 0; i < 8 * kChosen && rank == 1; ++i) rows_[rank][0].experts[i] = i % kChosen;  // hot ones
      for (const int32_t e : rows_[rank][0].experts) asked_ += e >= 0 ? kConfig.moe_layer_count() : 0;
    }
    expected_ = Alone<float>(rows_);
  }

  bool AreRight(uint64_t seed, Bug bug = Bug::kNone) {
    simt::SetSeed(seed);
    TestNetwork network(kSize);
    std::vector<Did> did(kSize);
    OnEachRank(kSize, [&](int at) {
      planted_bug = bug;
      if (!RunRank(at, seed, &network, &did[at])) network.Break();
    });
    if (network.broken()) {
      fake::Reset();  // no device works any more
      fake::SetDevices(4);
      return false;
    }
    bool right = did[0].again.size() > 2;
    for (size_t step = 0; step < kSteps; ++step) {
      uint64_t computed = 0;
      for (const Did& of_rank : did) computed += of_rank.expert_rows[step];
      right = right && computed == asked_;
    }
    for (const Did& of_rank : did) right = right && of_rank.again == did[0].again;
    for (const Did& of_rank : did) ahead_ += of_rank.ahead;
    return right;
  }
  int ahead() const { return ahead_; }

 private:
  static constexpr int kSize = simt::kManyThreads ? 3 : 2;
  static constexpr size_t kSteps = simt::kManyThreads ? 10 : 7;
  struct Did {
    std::vector<size_t> again;          // steps
    std::vector<uint64_t> expert_rows;  // of each
    int ahead = 0;
  };

  bool RunRank(int at, uint64_t seed, TestNetwork* network, Did* did) {
    TestExchange exchange(network, at);
    Rank<float> rank(&exchange, at, EvenPlacement(kSize), kSize, options_);
    RandomNumbers random(static_cast<uint32_t>(10 * seed) + at);
    rank.Set(rows_[at][0]);
    std::vector<Event> ends;
    for (size_t step = 0; step < kSteps; ++step) ends.push_back(*CreateEvent());
    const auto enqueue = [&](size_t step) {
      RETURN_IF_ERROR(rank.Enqueue());
      return CudaError(cudaEventRecord(ends[step].get(), rank.stream.get()), "recording");
    };
    size_t begun = 0;
    const auto begin = [&] {
      rank.parallel->BeginStep(begun + 1, 8);
      return enqueue(begun++);
    };
    const auto run = [&](size_t step) {
      if (begun == step) RETURN_IF_ERROR(begin());
      if (begun == step + 1 && begun < kSteps && rank.parallel->CanBeginAhead(8) && random.Below(2) == 0) {
        RETURN_IF_ERROR(begin());
        ++did->ahead;
      }
      absl::Status status = rank.parallel->Wait(ends[step].get());
      if (!absl::IsResourceExhausted(status)) return status;
      did->again.push_back(step);
      for (size_t again = step; again < begun; ++again) RETURN_IF_ERROR(enqueue(again));
      return rank.parallel->Wait(ends[step].get());
    };
    for (size_t step = 0; step < kSteps; ++step) {
      if (!run(step).ok()) return false;
      did->expert_rows.push_back(0);
      for (const uint64_t computed : rank.parallel->TakeExpertRows()) did->expert_rows.back() += computed;
      if (begun == step + 1 && !SameBits(rank.Sums(), expected_[at])) return false;
    }
    return rank.parallel->TakeRunsAgain() == static_cast<int>(did->again.size());
  }

  ExpertParallel::Options options_ = kSmall;
  std::vector<std::vector<Rows>> rows_ = std::vector<std::vector<Rows>>(kSize);
  uint64_t asked_ = 0;
  std::vector<std::vector<float>> expected_;
  int ahead_ = 0;
};

TEST_F(DeviceExpertParallel, RunsStepsAgainThatSomeRanksHaveBegunAnotherBehind) {
  for (const int overlap_rows : simt::kManyThreads ? std::vector<int>{0, 4} : std::vector<int>{4}) {
    Ahead ahead(overlap_rows);
    for (uint64_t seed = 0; seed < (simt::kManyThreads ? 2 : 1); ++seed) EXPECT_TRUE(ahead.AreRight(seed)) << seed;
    EXPECT_GT(ahead.ahead(), 1);
  }
}

TEST_F(DeviceExpertParallel, IsWrongWhereNoVoidStepPassesOrOneCounts) {
  if (!simt::kManyThreads) GTEST_SKIP() << "what is sent is wrong, and not when";
  for (const Bug bug : {Bug::kLetsNoVoidStepPass, Bug::kCountsAVoidStep}) {
    Ahead ahead(0);
    int wrong = 0;
    for (uint64_t seed = 0; seed < 2; ++seed) wrong += !ahead.AreRight(seed, bug);
    EXPECT_GT(wrong, 0);
  }
}

// A rank that found another's message wrong says so, and nobody takes that for too little room.
TEST_F(DeviceExpertParallel, AStepThatIsWrongIsNotRunAgainBecauseItDoesNotFit) {
  const int size = 3;
  TestNetwork network(size);
  network.spoil = [](int from, int to, std::string* message) {
    if (from == 2 && to == 0) ++reinterpret_cast<DispatchHead*>(message->data())->step;
  };
  ExpertParallel::Options options = kSmall;
  options.room = kTight;
  options.room.multiple = 0.1;
  OnEachRank(size, [&](int at) {
    TestExchange exchange(&network, at);
    Rank<float> rank(&exchange, at, EvenPlacement(size), size, options);
    rank.Set(Rows(8, 8, at));
    EXPECT_EQ(rank.RunStep(1, 8).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(rank.parallel->TakeRunsAgain(), 0);
  });
}

// A step of `rows_max` on three ranks, of which rank 2 sends what spoil() makes of its messages.
// If `all_know`, all ranks find the step void, and only rank 0 blames somebody.
void ExpectBlamed(int rows_max, bool all_know, const std::function<void(std::string*)>& spoil, const std::string& why) {
  const int size = 3;
  TestNetwork network(size);
  network.spoil = [&](int from, int to, std::string* message) {
    if (from == 2 && to == 0) spoil(message);
  };
  std::vector<std::thread> threads;
  for (int at = 0; at < size; ++at) {
    threads.emplace_back([&, at] {
      EXPECT_TRUE(UseDevice(at).ok());
      TestExchange exchange(&network, at);
      Rank<float> rank(&exchange, at, RandomPlacement(size, 1), size, kSmall);
      rank.Set(Rows(rows_max, rows_max, at));
      const absl::Status status = rank.RunStep(1, rows_max);
      if (at != 0) {
        EXPECT_EQ(status.code(), all_know ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk) << status;
        EXPECT_THAT(rank.parallel->suspects(), ElementsAre());
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
        EXPECT_THAT(std::string(status.message()), HasSubstr(why));
        EXPECT_THAT(rank.parallel->suspects(), ElementsAre(2));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceExpertParallel, BlamesWhoSendsNonsense) {
  const auto spoil_head = [](const std::function<void(DispatchHead*)>& spoil) {
    return [spoil](std::string* message) {
      if (message->size() >= sizeof(DispatchHead)) spoil(reinterpret_cast<DispatchHead*>(message->data()));
    };
  };
  // In slots, and exactly. (As in Sizes().)
  for (const int rows_max : simt::kManyThreads ? std::vector<int>{4, 12} : std::vector<int>{12}) {
    ExpectBlamed(rows_max, true, spoil_head([](DispatchHead* head) { ++head->step; }),
                 "rank 2: a message of another step in layer 1");
    const auto last_results = [&](DispatchHead* head) {
      const bool last = head->layer == kLayers - 1 && head->part == (rows_max - 1) / kSmall.pass_rows;
      if (last && head->kind == DispatchHead::kResults) head->rows = 1 << 20;
    };
    ExpectBlamed(rows_max, false, spoil_head(last_results), "rank 2: counts that cannot be in layer 2");
  }
  ExpectBlamed(
      4, true, [](std::string* message) { message->assign(message->size(), '\0'); },
      "rank 2: no message of ours in layer 1");
}

// An epoch is set up and ends while a step of another is on the device, and waits for nothing that is not its own.
TEST_F(DeviceExpertParallel, EpochsComeAndGoWithoutMemoryOfTheirOwnAndBesideAServingOne) {
  OnEachRank(1, [](int) {
    const std::vector<ExpertRanks> placement = RandomPlacement(1, 1);
    const EpochPlace place = {.rank = 0, .size = 1, .step_tokens_max = kStepTokens, .placement = placement};
    Rank<float> serving(nullptr, 0, placement, 1, kSmall);
    const auto make = [&] {
      return ExpertParallel::Make(&kConfig, &serving.ffn, nullptr, place, Rank<float>::WithType(kSmall),
                                  serving.memory.get());
    };
    serving.Set(Rows(3, 3, 1));
    serving.parallel->BeginStep(1, 3);
    fake::SetBackground(false);
    ASSERT_EQ(serving.Enqueue(), absl::OkStatus());
    const uint64_t allocations = fake::CallsSoFar().allocations;
    const size_t device_bytes = fake::DeviceBytesInUse(), pinned_bytes = fake::PinnedBytesInUse();
    for (int epoch = 0; epoch < 10; ++epoch) {
      std::vector<std::unique_ptr<ExpertParallel>> others;
      for (int more = 1; more < EpochMemory::kEpochsMax; ++more) others.push_back(*make());
      EXPECT_EQ(make().status().code(), absl::StatusCode::kUnavailable);
    }
    EXPECT_EQ(cudaStreamQuery(serving.stream.get()), cudaErrorNotReady) << "somebody waited for it";
    EXPECT_EQ(fake::CallsSoFar().allocations, allocations);
    EXPECT_EQ(fake::DeviceBytesInUse(), device_bytes);
    EXPECT_EQ(fake::PinnedBytesInUse(), pinned_bytes);
    EXPECT_EQ(serving.Wait(), absl::OkStatus());
  });
}

TEST_F(DeviceExpertParallel, RefusesWhatItHasNoRoomFor) {
  OnEachRank(1, [](int) {
    TestFfn<float> ffn(RandomPlacement(1, 1), 0, 8 * kChosen);
    ExpertParallel::Options options = Rank<float>::WithType(kSmall);
    const EpochPlace place = {.rank = 0, .size = 1, .step_tokens_max = kStepTokens, .placement = RandomPlacement(1, 1)};
    const EpochMemory::Sizes enough = ExpertParallel::MemorySizes(kConfig, options, kStepTokens, 1);
    const auto refusal = [&](const EpochMemory::Sizes& sizes) {
      TestEpochMemory memory(sizes);
      return std::string(
          ExpertParallel::Make(&kConfig, &ffn, nullptr, place, options, memory.get()).status().message());
    };
    EXPECT_EQ(refusal(enough), "");
    EpochMemory::Sizes sizes = enough;
    sizes.scratch_bytes -= 256;
    EXPECT_THAT(refusal(sizes), HasSubstr(std::to_string(sizes.scratch_bytes) + " are set aside"));
    sizes = enough;
    sizes.device_bytes -= 256;
    EXPECT_THAT(refusal(sizes), HasSubstr(std::to_string(sizes.device_bytes) + " are set aside"));
    options.room.multiple = 0;
    EXPECT_THAT(refusal(enough), HasSubstr("room for 0 times"));
    Rank<float> rank(nullptr, 0, RandomPlacement(1, 1), 1, kSmall);
    EXPECT_EQ(rank.parallel->Enqueue({1, kStepTokens + 1, kDim, kChosen, DType::kF32}, rank.stream.get()).code(),
              absl::StatusCode::kInvalidArgument);
  });
}

}  // namespace
}  // namespace braid::gpu
