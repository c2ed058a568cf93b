// A layer's way through all ranks of a group, on this thread: an exchange is a copy from slot to slot.

#include "kernels/cuda/dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>

#include "kernels/cuda/combine.h"
#include "kernels/cuda/group_rows.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

constexpr int kLayer = 5, kPart = 1;
constexpr uint64_t kStep = (uint64_t{1} << 40) + 3;

// Who has each expert.
using Placement = std::vector<std::vector<int>>;
Placement RoundRobin(int E, int ranks) {
  Placement placement(E);
  for (int e = 0; e < E; ++e) placement[e] = {e % ranks};
  return placement;
}

// As a rank sees a placement: an expert that is here is asked of nobody else.
struct Replicas {
  std::vector<int32_t> first{0}, ranks;
  Replicas(const Placement& placement, int rank) {
    for (const std::vector<int>& at : placement) {
      if (std::count(at.begin(), at.end(), rank) > 0) {
        ranks.push_back(rank);
      } else {
        ranks.insert(ranks.end(), at.begin(), at.end());
      }
      first.push_back(static_cast<int32_t>(ranks.size()));
    }
    if (ranks.empty()) ranks.push_back(0);
  }
};

// What an expert makes of a number: anything that tells experts and inputs apart, the same wherever it is computed.
float Expert(int expert, float x) { return x * (0.5f + 0.125f * expert) + 0.25f * expert; }

struct Routed {
  std::vector<float> x;          // (T, D)
  std::vector<int32_t> experts;  // (T, K)
  std::vector<float> weights;
};

template <typename T>
struct Rank {
  Rank(const DispatchShape& shape, int E, const Placement& placement, const Routed& routed)
      : shape(shape),
        E(E),
        T_(static_cast<int>(routed.experts.size()) / shape.K),
        replica_list(placement, shape.rank),
        x(Rounded<T>(routed.x)),
        experts(routed.experts),
        weights(routed.weights),
        first_replica(replica_list.first),
        replicas(replica_list.ranks),
        step(1),
        faults(shape.ranks),
        send(shape.slot_bytes() * shape.ranks),
        received(shape.slot_bytes() * shape.ranks),
        tokens(size_t(shape.ranks) * shape.rows),
        counts(2 * shape.ranks),
        row_of(routed.experts.size()),
        asked_experts(size_t(shape.ranks) * shape.slot_rows * shape.K),
        asked(size_t(shape.ranks) * shape.results),
        owed(shape.ranks),
        offsets(E + 1),
        source(asked_experts.size()),
        group_row_of(asked_experts.size()),
        y(size_t(shape.ranks) * shape.results * shape.D),
        send_results(shape.result_slot_bytes() * shape.ranks),
        received_results(shape.result_slot_bytes() * shape.ranks),
        expert_rows(std::vector<uint64_t>(E, 100)),
        clock(std::vector<ExchangeClock>(1)),
        sum(routed.x.size()) {}

  template <typename Op>
  void RunChecked(const Op& op) {
    ASSERT_TRUE(Check(op).ok()) << Check(op);
    if constexpr (requires { Run(op, DispatchConfig{}, nullptr); }) {
      ASSERT_EQ(Run(op, config, nullptr), cudaSuccess);
    } else {
      ASSERT_EQ(Run(op, nullptr), cudaSuccess);
    }
  }
  void Begin() {
    step[0] = kStep;
    std::fill_n(faults.data(), faults.size(), 0);
  }
  void SendRowsOut() {
    RunChecked(SendRows{shape, name(), T_, E, x.data(), experts.data(), first_replica.data(), replicas.data(),
                        send.data(), received.data(), tokens.data(), counts.data(), row_of.data(), clock.data()});
  }
  void Compute() {
    RunChecked(ReceiveRows{shape, name(), E, first_replica.data(), replicas.data(), announced, received.data(),
                           asked_experts.data(), asked.data(), owed.data(), faults.data(), clock.data()});
    const GroupRows group{shape.ranks * shape.slot_rows,
                          shape.K,
                          E,
                          asked_experts.data(),
                          offsets.data(),
                          source.data(),
                          group_row_of.data()};
    ASSERT_TRUE(Check(group).ok()) << Check(group);
    ASSERT_EQ(Run(group, GroupRowsConfig{1}, nullptr), cudaSuccess);
    ASSERT_LE(offsets[E], shape.ranks * shape.results);
    const T* rows = reinterpret_cast<const T*>(received.data());
    for (int e = 0; e < E; ++e) {
      for (int row = offsets[e]; row < offsets[e + 1]; ++row) {
        for (int i = 0; i < shape.D; ++i)
          Set(Expert(e, ToFloat(rows[size_t(source[row]) * shape.D + i])), &y[size_t(row) * shape.D + i]);
      }
    }
    RunChecked(SendResults{shape, name(), asked.data(), owed.data(), group_row_of.data(), y.data(), faults.data(),
                           send_results.data(), received_results.data(), clock.data()});
  }
  void Finish() {
    RunChecked(ReceiveResults{shape, name(), E, counts.data(), received_results.data(), offsets.data(),
                              expert_rows.data(), faults.data(), clock.data()});
    const Combine combine{
        T_, shape.D, shape.K, kTypeOf<T>, received_results.data(), row_of.data(), weights.data(), sum.data()};
    ASSERT_EQ(Run(combine, nullptr), cudaSuccess);
  }
  DispatchName name() { return {step.data(), kLayer, kPart}; }

  DispatchShape shape;
  int E, T_;
  DispatchConfig config{1, 2};
  const int32_t* announced = nullptr;
  Replicas replica_list;
  GlobalArray<T> x;
  GlobalArray<int32_t> experts;
  GlobalArray<float> weights;
  GlobalArray<int32_t> first_replica, replicas;
  GlobalArray<uint64_t> step;
  GlobalArray<uint32_t> faults;
  GlobalArray<std::byte> send, received;
  GlobalArray<int32_t> tokens, counts, row_of, asked_experts, asked, owed, offsets, source, group_row_of;
  GlobalArray<T> y;
  GlobalArray<std::byte> send_results, received_results;
  GlobalArray<uint64_t> expert_rows;
  GlobalArray<ExchangeClock> clock;
  GlobalArray<float> sum;
};

template <typename T>
using Group = std::vector<std::unique_ptr<Rank<T>>>;

struct Problem {
  int ranks = 1, E = 1, D = 8, K = 1;
  int rows = 0, results = 0;  // room in a slot; 0: for any
  Placement placement;
  std::vector<Routed> routed;  // by rank

  int rows_max() const {
    size_t most = 1;
    for (const Routed& r : routed) most = std::max(most, r.experts.size() / K);
    return static_cast<int>(most);
  }
};

// Rows' experts are distinct; some rows are padding and some choices are nobody's.
Problem MakeProblem(int ranks, int E, int D, int K, const std::vector<int>& rows, uint64_t seed) {
  Problem problem{ranks, E, D, K};
  RandomNumbers random(static_cast<uint32_t>(seed));
  problem.placement = RoundRobin(E, ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    const int T = rows[rank % rows.size()];
    Routed routed{random.Floats(size_t(T) * D), {}, random.Floats(size_t(T) * K)};
    for (int t = 0; t < T; ++t) {
      std::vector<int32_t> all(E);
      std::iota(all.begin(), all.end(), 0);
      const bool padding = random.Below(7) == 0;
      for (int k = 0; k < K; ++k) {
        std::swap(all[k], all[k + random.Below(E - k)]);
        routed.experts.push_back(padding || random.Below(11) == 0 ? -1 : all[k]);
      }
    }
    problem.routed.push_back(std::move(routed));
  }
  return problem;
}

template <typename T>
Group<T> MakeGroup(const Problem& problem) {
  Group<T> group;
  const int rows = problem.rows > 0 ? problem.rows : problem.rows_max();
  const int results = problem.results > 0 ? problem.results : rows * problem.K;
  for (int rank = 0; rank < problem.ranks; ++rank) {
    const DispatchShape shape = MakeDispatchShape(problem.ranks, rank, problem.D, problem.K, kTypeOf<T>, rows, results);
    group.push_back(std::make_unique<Rank<T>>(shape, problem.E, problem.placement, problem.routed[rank]));
  }
  return group;
}

// Only what is really sent travels: what lies behind it stays undefined.
template <typename T>
void ExchangeSlots(Group<T>& group, bool results) {
  for (auto& from : group) {
    for (auto& to : group) {
      if (from == to) continue;
      const DispatchShape& shape = from->shape;
      const size_t slot = results ? shape.result_slot_bytes() : shape.slot_bytes();
      const size_t rows = results ? shape.result_head_rows + from->owed[to->shape.rank]
                                  : shape.head_rows + from->counts[2 * to->shape.rank];
      auto& sent = results ? from->send_results : from->send;
      auto& received = results ? to->received_results : to->received;
      std::memcpy(received.data() + slot * from->shape.rank, sent.data() + slot * to->shape.rank,
                  rows * shape.row_bytes);
    }
  }
}

template <typename T>
using Between = std::function<void(Group<T>&)>;

template <typename T>
void RunLayer(Group<T>& group, const Between<T>& rows_came = nullptr, const Between<T>& results_came = nullptr) {
  for (auto& rank : group) rank->Begin();
  for (auto& rank : group) rank->SendRowsOut();
  ExchangeSlots(group, false);
  if (rows_came) rows_came(group);
  for (auto& rank : group) rank->Compute();
  ExchangeSlots(group, true);
  if (results_came) results_came(group);
  for (auto& rank : group) rank->Finish();
}

// What any placement must come to, bit by bit.
template <typename T>
std::vector<float> Reference(const Problem& problem, const Routed& routed) {
  const int D = problem.D, K = problem.K;
  const std::vector<T> x = Rounded<T>(routed.x);
  std::vector<float> sums(x.size());
  for (size_t choice = 0; choice < routed.experts.size(); ++choice) {
    const size_t t = choice / K;
    const int expert = routed.experts[choice];
    if (expert < 0) continue;
    for (int i = 0; i < D; ++i) {
      T result;
      Set(Expert(expert, ToFloat(x[t * D + i])), &result);
      sums[t * D + i] += routed.weights[choice] * ToFloat(result);
    }
  }
  return sums;
}

template <typename T>
void ExpectSums(const Problem& problem, Group<T>& group) {
  for (auto& rank : group) {
    EXPECT_TRUE(SameBits(rank->sum.values(), Reference<T>(problem, problem.routed[rank->shape.rank])));
    for (uint32_t fault : rank->faults.values()) EXPECT_EQ(fault, 0u);
  }
}

template <typename T>
class DispatchKernels : public testing::Test {};
using Types = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(DispatchKernels, Types);

TYPED_TEST(DispatchKernels, GiveTheBitsOfOneRankWhateverTheGroup) {
  for (const auto& [ranks, E, D, K] : {std::array{1, 3, 8, 2}, {2, 8, 24, 2}, {3, 5, 8, 4}, {8, 32, 40, 4}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      const Problem problem = MakeProblem(ranks, E, D, K, {9, 0, 35, 1, 3}, seed);
      Group<TypeParam> group = MakeGroup<TypeParam>(problem);
      for (auto& rank : group) rank->config = {seed % 2 == 0 ? 1 : 2, 1 + static_cast<int>(seed % 3)};
      RunLayer(group);
      ExpectSums(problem, group);
    }
  }
}

TYPED_TEST(DispatchKernels, GiveThemWithManyWarps) {
  if (!simt::kManyThreads) GTEST_SKIP() << "blocks of 256 threads";
  const Problem problem = MakeProblem(2, 8, 8, 2, {300, 70}, 1);
  Group<TypeParam> group = MakeGroup<TypeParam>(problem);
  for (auto& rank : group) rank->config = {8, 4};
  RunLayer(group);
  ExpectSums(problem, group);
}

using Float = Rank<float>;

TEST(Dispatch, SendsARowOnceToARankInOrder) {
  Problem problem{2, 4, 8, 3};
  problem.placement = {{0}, {1}, {1}, {1}};
  Routed routed{std::vector<float>(4 * 8), {1, 2, 3, 0, 1, -1, -1, -1, -1, 3, 0, 1}, std::vector<float>(12)};
  for (int t = 0; t < 4; ++t) std::fill_n(routed.x.begin() + t * 8, 8, float(t));
  problem.routed = {routed, {}};
  Group<float> group = MakeGroup<float>(problem);
  RunLayer(group);
  ExpectSums(problem, group);
  Float& sender = *group[0];
  EXPECT_EQ(sender.counts.values(), (std::vector<int32_t>{2, 2, 3, 6}));
  Float& receiver = *group[1];
  const DispatchShape& shape = receiver.shape;
  const auto* head = reinterpret_cast<const DispatchHead*>(receiver.received.data());
  EXPECT_EQ(head->rows, 3);
  EXPECT_EQ(head->results, 6);
  const auto* experts = reinterpret_cast<const int16_t*>(head + 1);
  EXPECT_EQ(std::vector<int16_t>(experts, experts + 9), (std::vector<int16_t>{1, 2, 3, -1, 1, -1, 3, -1, 1}));
  const float* rows = reinterpret_cast<const float*>(head) + shape.head_rows * 8;
  EXPECT_EQ(std::vector<float>({rows[0], rows[8], rows[16]}), (std::vector<float>{0, 1, 3}));
  // By expert, in an expert in the order asked.
  EXPECT_EQ(receiver.offsets.values(), (std::vector<int32_t>{0, 0, 3, 4, 6}));
  std::vector<int32_t> source;
  for (int i = 0; i < 6; ++i) source.push_back(receiver.source[i] - shape.head_rows);
  EXPECT_EQ(source, (std::vector<int32_t>{0, 1, 2, 0, 0, 2}));
  EXPECT_EQ(receiver.expert_rows.values(), (std::vector<uint64_t>{100, 103, 101, 102}));
  EXPECT_EQ(sender.expert_rows.values(), (std::vector<uint64_t>{102, 100, 100, 100}));
}

TEST(Dispatch, GroupsRowsOfAllRanksByExpertAndThenByRank) {
  Problem problem{3, 2, 8, 1};
  problem.placement = {{1}, {1}};
  for (int rank = 0; rank < 3; ++rank) {
    Routed routed{std::vector<float>(2 * 8, float(rank)), {1, 0}, {1, 1}};
    problem.routed.push_back(routed);
  }
  Group<float> group = MakeGroup<float>(problem);
  RunLayer(group);
  ExpectSums(problem, group);
  std::vector<int32_t> source;
  for (int i = 0; i < 6; ++i) source.push_back(group[1]->source[i]);
  const int slot = group[1]->shape.slot_rows, head = group[1]->shape.head_rows;
  EXPECT_EQ(source,
            (std::vector<int32_t>{head + 1, slot + head + 1, 2 * slot + head + 1, head, slot + head, 2 * slot + head}));
}

TEST(Dispatch, PrefersAReplicaHereAndTakesTurnsElsewhere) {
  Problem problem = MakeProblem(4, 4, 8, 1, {0}, 1);
  problem.placement = {{0, 1, 3}, {0}, {1}, {2}};
  for (Routed& routed : problem.routed) {
    routed = {std::vector<float>(6 * 8, 1), std::vector<int32_t>(6, 0), std::vector<float>(6, 1)};
  }
  Group<float> group = MakeGroup<float>(problem);
  RunLayer(group);
  ExpectSums(problem, group);
  const auto rows = [&](int rank) {
    std::vector<int32_t> sent;
    for (int to = 0; to < 4; ++to) sent.push_back(group[rank]->counts[2 * to]);
    return sent;
  };
  EXPECT_EQ(rows(0), (std::vector<int32_t>{6, 0, 0, 0}));
  EXPECT_EQ(rows(1), (std::vector<int32_t>{0, 6, 0, 0}));
  EXPECT_EQ(rows(2), (std::vector<int32_t>{2, 2, 0, 2}));
  EXPECT_EQ(rows(3), (std::vector<int32_t>{0, 0, 0, 6}));
}

TEST(Dispatch, SendsAllRowsToOneRankWhereAllExpertsAre) {
  Problem problem = MakeProblem(8, 4, 8, 2, {5, 40}, 2);
  for (auto& at : problem.placement) at = {6};
  Group<__nv_bfloat16> group = MakeGroup<__nv_bfloat16>(problem);
  RunLayer(group);
  ExpectSums(problem, group);
}

TEST(Dispatch, TellsAllRanksThatOneHadNoRoom) {
  for (const bool results : {false, true}) {
    Problem problem = MakeProblem(4, 8, 8, 2, {3, 3, 20, 3}, 3);
    for (auto& at : problem.placement) at = {1};
    (results ? problem.results : problem.rows) = 9;
    if (results) problem.rows = 20;
    Group<float> group = MakeGroup<float>(problem);
    RunLayer(group);
    for (auto& rank : group) {
      int short_of_room = 0;
      for (int from = 0; from < rank->shape.ranks; ++from) {
        const uint32_t fault = rank->faults[from];
        short_of_room += fault % 256 == static_cast<uint32_t>(DispatchFault::kShortOfRoom);
        EXPECT_TRUE(fault == 0 || fault % 256 == 1) << fault;
      }
      EXPECT_GT(short_of_room, 0) << rank->shape.rank;
    }
  }
}

TEST(Dispatch, KeepsTheTimeBetweenWhatIsSentAndWhatCame) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::microseconds kOnTheWay{500};
  const Between<float> travel = [&](Group<float>&) {
    for (const auto sent = Clock::now(); Clock::now() < sent + kOnTheWay;) {
    }
  };
  Problem problem = MakeProblem(2, 4, 8, 2, {3, 0}, 5);
  Group<float> group = MakeGroup<float>(problem);
  const auto begin = Clock::now();
  for (int layer = 0; layer < 3; ++layer) RunLayer(group, travel, travel);
  for (auto& rank : group) {
    // The device's clock may tick once in a microsecond.
    const std::chrono::nanoseconds exchanged(rank->clock[0].exchanged_ns);
    EXPECT_GE(exchanged, 3 * 2 * (kOnTheWay - std::chrono::microseconds(2)));
    EXPECT_LE(exchanged, Clock::now() - begin);
  }
}

uint32_t FaultOf(DispatchFault fault) { return static_cast<uint32_t>(fault) + 256 * kLayer; }

TEST(Dispatch, NamesWhoSentNonsenseAndWhatWasWrong) {
  const auto fault_of = [](const std::function<void(DispatchHead*)>& change, bool results) {
    Problem problem = MakeProblem(3, 6, 8, 2, {4}, 4);
    Group<float> group = MakeGroup<float>(problem);
    const auto damage = [&](Group<float>& g) {
      const DispatchShape& shape = g[0]->shape;
      change(reinterpret_cast<DispatchHead*>(results ? g[0]->received_results.data() + 2 * shape.result_slot_bytes()
                                                     : g[0]->received.data() + 2 * shape.slot_bytes()));
    };
    RunLayer<float>(group, results ? Between<float>() : damage, results ? damage : Between<float>());
    EXPECT_EQ(group[0]->faults[1], 0u);
    // What was wrong with rows all are told, and nobody takes it for the fault of who says so.
    for (int rank = 0; rank < 3; ++rank)
      EXPECT_EQ(group[rank]->faults[0], results ? 0 : FaultOf(DispatchFault::kComplaint)) << rank;
    return group[0]->faults[2];
  };
  for (const bool results : {false, true}) {
    EXPECT_EQ(fault_of([](DispatchHead* head) { head->kind ^= 1; }, results), FaultOf(DispatchFault::kHead));
    EXPECT_EQ(fault_of([](DispatchHead* head) { --head->step; }, results), FaultOf(DispatchFault::kStep));
    EXPECT_EQ(fault_of([](DispatchHead* head) { ++head->layer; }, results), FaultOf(DispatchFault::kLayer));
    EXPECT_EQ(fault_of([](DispatchHead* head) { --head->part; }, results), FaultOf(DispatchFault::kLayer));
    EXPECT_EQ(fault_of([](DispatchHead* head) { head->rows = -1; }, results), FaultOf(DispatchFault::kCounts));
    EXPECT_EQ(fault_of([](DispatchHead* head) { head->rows = 5; }, results), FaultOf(DispatchFault::kCounts));
    EXPECT_EQ(fault_of([](DispatchHead* head) { ++head->results; }, results), FaultOf(DispatchFault::kCounts));
    EXPECT_EQ(fault_of([](DispatchHead* head) { head->results = 1 << 30; }, results), FaultOf(DispatchFault::kCounts));
  }
  const auto expert = [](DispatchHead* head) { return reinterpret_cast<int16_t*>(head + 1); };
  for (const int16_t nonsense : {-2, 1, 6, 30000, -30000}) {  // 1 is elsewhere
    EXPECT_EQ(fault_of([&](DispatchHead* head) { *expert(head) = nonsense; }, false), FaultOf(DispatchFault::kExperts));
  }
  EXPECT_EQ(fault_of([&](DispatchHead* head) { std::fill_n(expert(head), 2 * head->rows, 0); }, false),
            FaultOf(DispatchFault::kCounts));
}

// Whatever lies in slots, nothing is read or written beside an array: the emulator would say so.
TEST(Dispatch, SurvivesAnything) {
  for (uint64_t seed = 0; seed < (simt::kManyThreads ? 40 : 8); ++seed) {
    simt::SetSeed(seed);
    RandomNumbers random(static_cast<uint32_t>(seed));
    Problem problem = MakeProblem(3, 6, 8, 3, {4, 33}, seed);
    if (seed % 3 == 0) problem.results = 40;
    Group<__nv_bfloat16> group = MakeGroup<__nv_bfloat16>(problem);
    const auto damage = [&](GlobalArray<std::byte>& slots, size_t slot_bytes, size_t head_bytes) {
      for (int rank = 0; rank < 3; ++rank) {
        std::byte* slot = slots.data() + slot_bytes * rank;
        for (int i = 0; i < 12; ++i) slot[random.Below(static_cast<int>(head_bytes))] = std::byte(random.Below(256));
        // A head that looks right lets the rest be read.
        auto* head = reinterpret_cast<DispatchHead*>(slot);
        if (random.Below(2) == 0) continue;
        head->step = kStep, head->layer = kLayer, head->part = kPart, head->trouble = 0;
        head->rows = random.Below(40), head->results = random.Below(40);
      }
    };
    RunLayer<__nv_bfloat16>(
        group,
        [&](auto& g) {
          for (auto& r : g) damage(r->received, r->shape.slot_bytes(), size_t(r->shape.head_rows) * r->shape.row_bytes);
        },
        [&](auto& g) {
          for (auto& r : g) damage(r->received_results, r->shape.result_slot_bytes(), sizeof(DispatchHead));
        });
  }
}

TEST(Dispatch, HoldsRanksToWhatTheyAnnounced) {
  for (const int lie : {0, 1, 2}) {
    Problem problem = MakeProblem(2, 4, 8, 2, {5}, 6);
    Group<float> group = MakeGroup<float>(problem);
    for (auto& rank : group) rank->Begin();
    for (auto& rank : group) rank->SendRowsOut();
    ExchangeSlots(group, false);
    std::vector<int32_t> counts = group[0]->counts.values(), theirs = group[1]->counts.values();
    if (lie > 0) --theirs[lie - 1];
    counts.insert(counts.end(), theirs.begin(), theirs.end());
    GlobalArray<int32_t> announced(counts);
    group[0]->announced = announced.data();
    group[0]->Compute();
    EXPECT_EQ(group[0]->faults.values(), (std::vector<uint32_t>{0u, lie > 0 ? FaultOf(DispatchFault::kCounts) : 0}));
    EXPECT_EQ(group[0]->owed[1], lie > 0 ? 0 : theirs[1]);
  }
}

TEST(Dispatch, KeepsTheFirstFaultUntilTheNextStep) {
  Problem problem = MakeProblem(2, 4, 8, 2, {3}, 5);
  Group<float> group = MakeGroup<float>(problem);
  RunLayer<float>(
      group,
      [](auto& g) { ++reinterpret_cast<DispatchHead*>(g[0]->received.data() + g[0]->shape.slot_bytes())->layer; },
      [](auto& g) {
        ++reinterpret_cast<DispatchHead*>(g[0]->received_results.data() + g[0]->shape.result_slot_bytes())->step;
      });
  EXPECT_EQ(group[0]->faults[1], FaultOf(DispatchFault::kLayer));
  RunLayer(group);
  EXPECT_EQ(group[0]->faults[1], 0u);
}

TEST(Dispatch, LaysSlotsOutInWholeRows) {
  const DispatchShape shape = MakeDispatchShape(8, 1, 2048, 4, DType::kBF16, 256, 1024);
  EXPECT_EQ(shape.row_bytes, 4096);
  EXPECT_EQ(shape.head_rows, 1);
  EXPECT_EQ(shape.slot_bytes(), 257u * 4096);
  EXPECT_EQ(shape.result_slot_bytes(), 1025u * 4096);
  EXPECT_EQ(MakeDispatchShape(2, 0, 8, 2, DType::kBF16, 4, 8).head_rows, 5);
}

TEST(Dispatch, ChecksNameWhatIsWrong) {
  uint64_t step = 0;
  int32_t number = 0;
  SendRows op{MakeDispatchShape(2, 2, 8, 2, DType::kF32, 4, 8), {&step}, 1, 4};
  EXPECT_EQ(Check(op).message(), "rank must be in [0, ranks)");
  op.shape = MakeDispatchShape(2, 1, 8, 33, DType::kF32, 4, 8);
  EXPECT_EQ(Check(op).message(), "K must be in [1, 32]");
  op.shape = MakeDispatchShape(2, 1, 8, 2, DType::kF32, 4, 0);
  EXPECT_EQ(Check(op).message(), "slots must have room for a row");
  op.shape = MakeDispatchShape(2, 1, 8, 2, DType::kF32, 4, 8);
  EXPECT_EQ(Check(op).message(), "first_replica and replicas must be set");
  op.first_replica = op.replicas = &number;
  EXPECT_EQ(Check(op).message(), "x, experts and row_of must be set, x at a multiple of 16 bytes");
  ReceiveResults results{op.shape, op.name, 0};
  EXPECT_EQ(Check(results).message(), "E must be positive, offsets and expert_rows set");
}

}  // namespace
}  // namespace braid::gpu
