#include "kernels/grouped_ffn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <tuple>

#include "kernels/cpu/level.h"
#include "kernels/linear.h"
#include "kernels/pointwise.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr int kD = 64, kF = 96, kR = 37;

struct Experts {
  Experts() {
    RandomNumbers random(14);
    for (int e = 0; e < 3; ++e) {
      gate.emplace_back(random, DType::kQ4_0, kF, kD);
      up.emplace_back(random, DType::kQ8_0, kF, kD);
      down.emplace_back(random, DType::kF16, kD, kF);
    }
    x = random.Floats(kR * kD);
  }
  FfnGroup Group(int e, int begin, int end) const {
    return {begin, end, gate[e].matrix(), up[e].matrix(), down[e].matrix()};
  }
  std::vector<RandomMatrix> gate, up, down;
  std::vector<float> x;
};

TEST(GroupedFfn, IsTheFeedForwardOfEachGroup) {
  const Experts experts;
  ThreadPool pool(2);
  GroupedFfnScratch scratch;
  const FfnGroup groups[] = {experts.Group(2, 0, 1), experts.Group(0, 1, 7), experts.Group(1, 7, kR)};
  std::vector<float> y(kR * kD), gate(kR * kF), up(kR * kF), want(kR * kD);
  const GroupedFfn op{.R = kR, .D = kD, .F = kF, .groups = groups, .x = experts.x.data(), .y = y.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, scratch, pool);
  for (const FfnGroup& group : groups) {
    const int rows = group.end - group.begin;
    ref::Run(Linear{rows, group.gate, &experts.x[group.begin * kD], gate.data()});
    ref::Run(Linear{rows, group.up, &experts.x[group.begin * kD], up.data()});
    ref::Run(SwiGlu{rows * kF, gate.data(), up.data(), gate.data()});
    ref::Run(Linear{rows, group.down, gate.data(), &want[group.begin * kD]});
  }
  // Weights are about 1 / sqrt(K) and x about 1, so every sum of |w x| is below sqrt(3 K) times a small factor.
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], want[i], kF * 16 * 0x1p-24f) << i;
}

TEST(GroupedFfn, GivesARowTheSameBitsInAnyGroup) {
  const Experts experts;
  std::vector<float> alone(kR * kD);
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    GroupedFfnScratch scratch;
    for (int r = 0; r < kR; ++r) {
      const FfnGroup group = experts.Group(r < 20 ? 0 : 1, 0, 1);
      braid::Run(
          GroupedFfn{.R = 1, .D = kD, .F = kF, .groups = {&group, 1}, .x = &experts.x[r * kD], .y = &alone[r * kD]},
          scratch, pool);
    }
    const FfnGroup groups[] = {experts.Group(0, 0, 20), experts.Group(1, 20, kR)};
    std::vector<float> y(kR * kD);
    braid::Run(GroupedFfn{.R = kR, .D = kD, .F = kF, .groups = groups, .x = experts.x.data(), .y = y.data()}, scratch,
               pool);
    ASSERT_EQ(y, alone) << threads;
  }
}

// Experts in panels: K types need whole blocks of 256.
struct PackedExperts {
  PackedExperts(DType in, DType out) {
    RandomNumbers random(15);
    for (int e = 0; e < 4; ++e) {
      for (auto [matrices, type, rows, columns] :
           {std::tuple{&gate, in, kF2, kD2}, std::tuple{&up, in, kF2, kD2}, std::tuple{&down, out, kD2, kF2}}) {
        rows_of.emplace_back(random, type, rows, columns);
        matrices->emplace_back(rows_of.back().matrix());
      }
    }
    x = random.Floats(kM * kD2);
    q.resize(kM * kD2 / 32);
    for (int m = 0; m < kM; ++m) QuantizeRow(&x[m * kD2], kD2, &q[m * kD2 / 32]);
  }
  FfnGroup Group(int e, int begin, int end) const {
    return {begin, end, gate[e].matrix(), up[e].matrix(), down[e].matrix()};
  }
  static constexpr int kD2 = 256, kF2 = 512, kM = 140;
  std::deque<RandomMatrix> rows_of;
  std::deque<PackedMatrix> gate, up, down;
  std::vector<float> x;
  std::vector<QuantBlock> q;
};

// The fused way and the single ops round alike, whichever layout the down projection makes it take.
TEST(GroupedFfn, IsInPanelsExactlyWhatTheSingleOpsGive) {
  constexpr int D = PackedExperts::kD2, F = PackedExperts::kF2, M = PackedExperts::kM;
  for (auto [in, out] : {std::pair{DType::kQ4_0, DType::kQ4_0}, std::pair{DType::kQ4_K, DType::kQ6_K},
                         std::pair{DType::kQ8_0, DType::kQ5_K}}) {
    const PackedExperts experts(in, out);
    std::vector<int32_t> source;
    const FfnGroup groups[] = {experts.Group(3, 0, 1), experts.Group(0, 1, 8), experts.Group(2, 8, 8 + M)};
    for (int r = 0; r < 8 + M; ++r) source.push_back((r * 37) % M);
    const int R = static_cast<int>(source.size());
    ThreadPool one(1);
    std::vector<float> want(size_t{1} * R * D), gate(F), up(F);
    std::vector<QuantBlock> hidden(F / 32);
    for (const FfnGroup& group : groups) {
      for (int r = group.begin; r < group.end; ++r) {
        const QuantBlock* q = &experts.q[source[r] * D / 32];
        braid::Run(Linear{1, group.gate, nullptr, gate.data(), q}, one);
        braid::Run(Linear{1, group.up, nullptr, up.data(), q}, one);
        braid::Run(SwiGlu{F, gate.data(), up.data(), gate.data()}, one);
        braid::Run(QuantizeRows{1, F, gate.data(), hidden.data()}, one);
        braid::Run(Linear{1, group.down, nullptr, &want[size_t{1} * r * D], hidden.data()}, one);
      }
    }
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      for (int threads : {1, 3}) {
        ThreadPool pool(threads);
        GroupedFfnScratch scratch;
        std::vector<float> y(want.size());
        const GroupedFfn op{
            .R = R, .D = D, .F = F, .groups = groups, .source = source.data(), .q = experts.q.data(), .y = y.data()};
        ASSERT_TRUE(Check(op).ok());
        braid::Run(op, scratch, pool);
        ASSERT_EQ(y, want) << level->name << " " << Name(in) << " on " << threads;
      }
    }
  }
}

TEST(GroupedFfn, RefusesWeightsOfAnotherShape) {
  const Experts experts;
  std::vector<float> y(kR * kD);
  FfnGroup group = experts.Group(0, 0, kR);
  std::swap(group.up, group.down);
  GroupedFfn op{.R = kR, .D = kD, .F = kF, .groups = {&group, 1}, .x = experts.x.data(), .y = y.data()};
  EXPECT_FALSE(Check(op).ok());
  group = experts.Group(0, 1, kR);
  EXPECT_FALSE(Check(op).ok());
}

}  // namespace
}  // namespace braid
