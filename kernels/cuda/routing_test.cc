// From a router's logits to the order in which experts see rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/cuda/choose_experts.h"
#include "kernels/cuda/group_rows.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Choices {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
Choices Choose(const std::vector<float>& logits, const std::vector<float>& bias, int E, int K, bool normalize,
               float scale = 1) {
  const int T = static_cast<int>(logits.size()) / E;
  GlobalArray<float> logit_array(logits), bias_array(bias), weights(size_t(T) * K);
  GlobalArray<int32_t> experts(size_t(T) * K);
  const ChooseExperts op{T,
                         E,
                         K,
                         logit_array.data(),
                         bias.empty() ? nullptr : bias_array.data(),
                         normalize,
                         scale,
                         experts.data(),
                         weights.data()};
  EXPECT_TRUE(Check(op).ok()) << Check(op);
  EXPECT_EQ(Run(op, nullptr), cudaSuccess);
  return {experts.values(), weights.values()};
}

// A score is off by a few u, so that no expert left out may be better than one chosen by more than that.
TEST(ChooseExpertsKernel, TakesTheBestInOrder) {
  for (const auto& [E, K] : {std::array{8, 2}, {32, 4}, {33, 1}, {64, 4}, {100, 8}, {1024, 32}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      RandomNumbers random(static_cast<uint32_t>(seed));
      const int T = 5;
      const std::vector<float> logits = random.Floats(size_t(T) * E, 6), bias = random.Floats(E);
      for (const bool biased : {false, true}) {
        const Choices got = Choose(logits, biased ? bias : std::vector<float>(), E, K, true, 2.5f);
        for (int t = 0; t < T; ++t) {
          std::vector<double> score(E), key(E);
          for (int e = 0; e < E; ++e) {
            score[e] = 1 / (1 + std::exp(-double{logits[t * E + e]}));
            key[e] = score[e] + (biased ? double{bias[e]} : 0);
          }
          std::vector<bool> taken(E);
          double sum = 0;
          for (int k = 0; k < K; ++k) {
            const int chosen = got.experts[t * K + k];
            ASSERT_TRUE(chosen >= 0 && chosen < E && !taken[chosen]) << chosen;
            taken[chosen] = true;
            sum += score[chosen];
            for (int e = 0; e < E; ++e) ASSERT_TRUE(taken[e] || key[e] <= key[chosen] + 16 * 0x1p-24) << e;
          }
          for (int k = 0; k < K; ++k) {
            const double want = score[got.experts[t * K + k]] / (sum + 1e-6) * 2.5;
            ASSERT_NEAR(got.weights[t * K + k], want, (16 + K) * 0x1p-24 * want);
          }
        }
      }
    }
  }
}

TEST(ChooseExpertsKernel, TakesTheLowerIndexOnATie) {
  EXPECT_EQ(Choose({0, 2, 1, 2, -1}, {}, 5, 3, false).experts, (std::vector<int32_t>{1, 3, 2}));
  EXPECT_EQ(Choose(std::vector<float>(70, 1), {}, 70, 4, false).experts, (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST(ChooseExpertsKernel, UsesTheBiasToChooseButNotToWeigh) {
  const Choices got = Choose({0, 3, 1}, {1, 0, 0}, 3, 2, false);
  EXPECT_EQ(got.experts, (std::vector<int32_t>{0, 1}));
  EXPECT_FLOAT_EQ(got.weights[0], 0.5f);
}

TEST(ChooseExpertsKernel, GivesDistinctExpertsWhateverTheLogits) {
  std::vector<float> logits(3 * 40, NAN);
  logits[40 + 7] = 1;
  std::fill(logits.begin() + 80, logits.end(), -INFINITY);
  const Choices got = Choose(logits, std::vector<float>(40, -INFINITY), 40, 5, true);
  for (int t = 0; t < 3; ++t) {
    std::vector<int32_t> row(got.experts.begin() + t * 5, got.experts.begin() + t * 5 + 5);
    std::sort(row.begin(), row.end());
    EXPECT_TRUE(row[0] >= 0 && row[4] < 40 && std::adjacent_find(row.begin(), row.end()) == row.end()) << t;
  }
}

TEST(ChooseExpertsKernel, GivesPaddingNone) {
  GlobalArray<float> logits(std::vector<float>{0, 2, 1, 0, 2, 1, 0, 2, 1}), weights(6);
  GlobalArray<int32_t> experts(6), positions(std::vector<int32_t>{7, -1, 0});
  ChooseExperts op{3, 3, 2, logits.data(), nullptr, true, 1, experts.data(), weights.data()};
  op.positions = positions.data();
  ASSERT_TRUE(Check(op).ok());
  ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
  EXPECT_EQ(experts.values(), (std::vector<int32_t>{1, 2, -1, -1, 1, 2}));
}

struct Grouping {
  std::vector<int32_t> offsets, source, row_of;
  bool operator==(const Grouping&) const = default;
};
// What the reference does not write is 0 in it.
Grouping Sorted(const std::vector<int32_t>& experts, int K, int E) {
  Grouping sorted{std::vector<int32_t>(E + 1), std::vector<int32_t>(experts.size()),
                  std::vector<int32_t>(experts.size(), -1)};
  int row = 0;
  for (int e = 0; e < E; ++e) {
    sorted.offsets[e] = row;
    for (size_t pair = 0; pair < experts.size(); ++pair) {
      if (experts[pair] != e) continue;
      sorted.source[row] = static_cast<int32_t>(pair) / K;
      sorted.row_of[pair] = row++;
    }
  }
  sorted.offsets[E] = row;
  return sorted;
}
Grouping Group(const std::vector<int32_t>& experts, int K, int E, GroupRowsConfig config) {
  GlobalArray<int32_t> expert_array(experts), offsets(E + 1), source(experts.size()), row_of(experts.size());
  const GroupRows op{
      static_cast<int>(experts.size()) / K, K, E, expert_array.data(), offsets.data(), source.data(), row_of.data()};
  EXPECT_TRUE(Check(op).ok()) << Check(op);
  EXPECT_EQ(Run(op, config, nullptr), cudaSuccess);
  for (size_t i = offsets[E]; i < source.size(); ++i) source[i] = 0;
  return {offsets.values(), source.values(), row_of.values()};
}

TEST(GroupRowsKernel, SortsPairsByExpertAndToken) {
  for (const auto& [T, K, E] : {std::array{1, 1, 1}, {3, 4, 32}, {16, 4, 32}, {33, 4, 64}, {70, 2, 8}, {41, 3, 200}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      RandomNumbers random(static_cast<uint32_t>(seed));
      std::vector<int32_t> experts(size_t(T) * K);
      // Some pairs go elsewhere, and some experts have many.
      for (int32_t& expert : experts) expert = random.Below(3) == 0 ? 0 : random.Below(E + 1) - 1;
      for (const int warps : {1, 4, 8}) EXPECT_EQ(Group(experts, K, E, {warps}), Sorted(experts, K, E)) << warps;
    }
  }
}

TEST(GroupRowsKernel, SortsAStepOfAThousandTokens) {
  RandomNumbers random(5);
  std::vector<int32_t> experts(4 * 1000);
  for (int32_t& expert : experts) expert = random.Below(64);
  EXPECT_EQ(Group(experts, 4, 64, {32}), Sorted(experts, 4, 64));
}

TEST(GroupRowsKernel, AddsUpRows) {
  GlobalArray<int32_t> experts(std::vector<int32_t>{0, 2, -1, 2}), offsets(4), source(4), row_of(4);
  GlobalArray<uint64_t> counted(std::vector<uint64_t>{10, 20, 30});
  GroupRows op{2, 2, 3, experts.data(), offsets.data(), source.data(), row_of.data()};
  op.counted = counted.data();
  for (int i = 0; i < 2; ++i) ASSERT_EQ(gpu::Run(op, {1}, nullptr), cudaSuccess);
  EXPECT_EQ(counted.values(), (std::vector<uint64_t>{12, 20, 34}));
}

TEST(GroupRowsKernel, GroupsNothing) {
  EXPECT_EQ(Group({}, 4, 3, {1}).offsets, (std::vector<int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(Group({-1, -1}, 2, 3, {1}), Sorted({-1, -1}, 2, 3));
}

TEST(GroupRows, ChoosesWarpsThatHaveWorkAndFitTheirCounts) {
  const auto warps = [](int T, int K, int E) { return Choose(GroupRows{T, K, E}).warps; };
  EXPECT_EQ(warps(1, 4, 32), 1);
  EXPECT_EQ(warps(32, 4, 32), 4);
  EXPECT_EQ(warps(64, 4, 32), 8);
  EXPECT_EQ(warps(1024, 4, 64), 32);
  EXPECT_EQ(warps(1024, 4, 1024), 8);
}

TEST(Routing, ChecksNameWhatIsWrong) {
  float number = 0;
  int32_t expert = 0;
  EXPECT_EQ(Check(ChooseExperts{1, 1025, 4, &number}).message(), "E must be in [1, 1024]");
  EXPECT_EQ(Check(ChooseExperts{1, 64, 33, &number}).message(), "K must be in [1, E], at most 32");
  EXPECT_EQ(Check(ChooseExperts{1, 8, 2, &number}).message(), "logits, experts and weights must be set");
  EXPECT_EQ(Check(GroupRows{1 << 30, 4, 8, &expert, &expert}).message(), "T * K must fit 32 bits");
  EXPECT_EQ(Check(GroupRows{1, 4, 8, &expert, &expert}).message(), "experts, source and row_of must be set");
}

}  // namespace
}  // namespace braid::gpu
