// The ops that work row by row or value by value.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/choose_experts.h"
#include "kernels/cpu/level.h"
#include "kernels/exp.h"
#include "kernels/gather.h"
#include "kernels/pointwise.h"
#include "kernels/random_weights.h"
#include "kernels/ref/dequant.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/weighted_sum.h"

namespace braid {
namespace {

TEST(Exp, IsWithinTwoUlp) {
  for (float x = -87.3f; x < 88.3f; x += 0.00371f) {
    const double want = std::exp(static_cast<double>(x));
    const float rounded = static_cast<float>(want);
    const double ulp = std::nextafter(rounded, INFINITY) - rounded;
    ASSERT_LE(std::abs(Exp(x) - want), 2 * ulp) << x;
  }
}

TEST(Exp, HasExactEnds) {
  EXPECT_EQ(Exp(0), 1.0f);
  EXPECT_EQ(Exp(-INFINITY), 0.0f);
  EXPECT_EQ(Exp(-100), 0.0f);
  EXPECT_EQ(Exp(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
}

TEST(RmsNorm, AgreesWithTheReferenceAlsoInPlace) {
  RandomNumbers random(8);
  ThreadPool pool(2);
  for (int D : {1, 7, 8, 9, 64, 2048}) {
    const std::vector<float> x = random.Floats(size_t{19} * D, 5), weight = random.Floats(D);
    std::vector<float> got = x, want(x.size());
    const RmsNorm op{19, D, got.data(), weight.data(), 1e-5f, got.data()};
    ASSERT_TRUE(Check(op).ok());
    braid::Run(op, pool);
    ref::Run(RmsNorm{19, D, x.data(), weight.data(), 1e-5f, want.data()});
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(got[i], want[i], 4 * 0x1p-24f * std::abs(want[i])) << D;
  }
}

TEST(RopeTable, RoundsFrequencyAndAngleToFloat32) {
  const int32_t positions[] = {0, 1, 100000};
  float cos[3 * 4], sin[3 * 4];
  ThreadPool pool(1);
  const RopeTable op{3, 8, 1e6f, positions, cos, sin};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(cos[i], 1.0f);
    EXPECT_EQ(sin[i], 0.0f);
    const float frequency = 1.0f / static_cast<float>(std::pow(1e6, i / 4.0));
    EXPECT_FLOAT_EQ(sin[4 + i], std::sin(frequency));
    const float angle = 100000.0f * frequency;
    EXPECT_FLOAT_EQ(cos[8 + i], static_cast<float>(std::cos(static_cast<double>(angle))));
  }
}

TEST(HeadNormRope, AgreesWithTheReference) {
  RandomNumbers random(9);
  ThreadPool pool(3);
  const int T = 13, heads = 3, dim = 24;
  std::vector<float> got = random.Floats(T * heads * dim), want = got;
  const std::vector<float> weight = random.Floats(dim), angles = random.Floats(T * dim / 2, 7);
  std::vector<float> cos, sin;
  for (float angle : angles) cos.push_back(std::cos(angle)), sin.push_back(std::sin(angle));
  HeadNormRope op{T, heads, dim, weight.data(), 1e-5f, cos.data(), sin.data(), got.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  op.x = want.data();
  ref::Run(op);
  // Two products of at most sqrt(dim) * 1 each, four roundings on the way.
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2 * 5 * 4 * 0x1p-24f);
}

TEST(SwiGlu, AgreesWithTheReferenceAlsoFarOut) {
  RandomNumbers random(10);
  ThreadPool pool(2);
  std::vector<float> gate = random.Floats(5000, 20), up = random.Floats(5000), want(5000);
  gate[0] = 1000, gate[1] = -1000, gate[2] = 0;
  ref::Run(SwiGlu{5000, gate.data(), up.data(), want.data()});
  const SwiGlu op{5000, gate.data(), up.data(), gate.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  for (int i = 0; i < 5000; ++i) ASSERT_NEAR(gate[i], want[i], 6 * 0x1p-24f * std::abs(want[i]) + 1e-37f) << i;
}

TEST(Gather, WidensTheRowsAskedFor) {
  RandomNumbers random(11);
  ThreadPool pool(2);
  const RandomMatrix table(random, DType::kQ6_K, 5, 256);
  const int32_t ids[] = {4, 0, 4};
  std::vector<float> got(3 * 256), want(256);
  const Gather op{3, table.matrix(), ids, got.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  for (int t = 0; t < 3; ++t) {
    Dequantize(DType::kQ6_K, table.matrix().row(ids[t]), 256, want.data());
    ASSERT_EQ(std::memcmp(&got[t * 256], want.data(), 256 * sizeof(float)), 0);
  }
}

TEST(Gather, RefusesIdsOutsideTheTable) {
  RandomNumbers random(12);
  const RandomMatrix table(random, DType::kF32, 5, 2);
  float y[2];
  for (int32_t id : {-1, 5}) EXPECT_FALSE(Check(Gather{1, table.matrix(), &id, y}).ok());
}

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
Choice Choose(std::vector<float> logits, std::vector<float> bias, int K, bool normalize, float scale = 1) {
  ThreadPool pool(1);
  Choice choice{std::vector<int32_t>(K), std::vector<float>(K)};
  const ChooseExperts op{1,
                         static_cast<int>(logits.size()),
                         K,
                         logits.data(),
                         bias.empty() ? nullptr : bias.data(),
                         normalize,
                         scale,
                         choice.experts.data(),
                         choice.weights.data()};
  EXPECT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  return choice;
}

TEST(ChooseExperts, TakesTheBestFirstAndTheLowerIndexOnATie) {
  EXPECT_EQ(Choose({0, 2, 1, 2, -1}, {}, 3, false).experts, (std::vector<int32_t>{1, 3, 2}));
}

TEST(ChooseExperts, UsesTheBiasToChooseButNotToWeigh) {
  const Choice choice = Choose({0, 3, 1}, {1, 0, 0}, 2, false);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{0, 1}));
  EXPECT_FLOAT_EQ(choice.weights[0], 0.5f);
  EXPECT_FLOAT_EQ(choice.weights[1], 1 / (1 + std::exp(-3.0f)));
}

TEST(ChooseExperts, NormalizesAndScales) {
  const Choice choice = Choose({0, 0}, {}, 2, true, 2.5f);
  EXPECT_FLOAT_EQ(choice.weights[0], 0.5f / (1 + 1e-6f) * 2.5f);
}

TEST(ChooseExperts, ChoosesDistinctExpertsAlsoFromNaN) {
  EXPECT_EQ(Choose({NAN, NAN, NAN}, {}, 3, true).experts, (std::vector<int32_t>{0, 1, 2}));
}

TEST(RmsNorm, AddsAndQuantisesOnTheWay) {
  RandomNumbers random(20);
  ThreadPool pool(2);
  const int T = 9, D = 96;
  const std::vector<float> x = random.Floats(T * D), add = random.Floats(T * D), weight = random.Floats(D);
  std::vector<float> want_sum(T * D), want(T * D);
  for (int i = 0; i < T * D; ++i) want_sum[i] = x[i] + add[i];
  braid::Run(RmsNorm{T, D, want_sum.data(), weight.data(), 1e-5f, want.data()}, pool);
  std::vector<QuantBlock> want_q(T * D / 32), q(T * D / 32);
  ref::Run(QuantizeRows{T, D, want.data(), want_q.data()});
  std::vector<float> hidden = x, y(T * D);
  const RmsNorm op{T, D, hidden.data(), weight.data(), 1e-5f, y.data(), add.data(), hidden.data(), q.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  EXPECT_EQ(hidden, want_sum);
  EXPECT_EQ(y, want);
  EXPECT_EQ(std::memcmp(q.data(), want_q.data(), q.size() * sizeof(QuantBlock)), 0);
}

TEST(WeightedSum, AddsInTheOrderOfItsRows) {
  RandomNumbers random(21);
  ThreadPool pool(3);
  const int T = 11, D = 37, K = 4, R = 17;
  const std::vector<float> rows = random.Floats(R * D), weights = random.Floats(T * K);
  std::vector<int32_t> row_of(T * K);
  for (int32_t& row : row_of) row = random.Below(R);
  std::vector<float> y(T * D);
  const WeightedSum op{T, D, K, rows.data(), row_of.data(), weights.data(), y.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  for (int t = 0; t < T; ++t) {
    for (int d = 0; d < D; ++d) {
      float want = 0;
      for (int k = 0; k < K; ++k) want += weights[t * K + k] * rows[row_of[t * K + k] * D + d];
      ASSERT_EQ(y[t * D + d], want);
    }
  }
}

TEST(HeadNormRope, HasTheSameBitsOnEveryLevel) {
  RandomNumbers random(23);
  ThreadPool pool(1);
  for (int head_dim : {2, 8, 32, 46, 64}) {
    const int T = 3, heads = 2, half = head_dim / 2;
    const std::vector<float> x = random.Floats(T * heads * head_dim), weight = random.Floats(head_dim);
    const std::vector<float> cos = random.Floats(T * half), sin = random.Floats(T * half);
    std::vector<float> portable;
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      std::vector<float> y = x;
      braid::Run(HeadNormRope{T, heads, head_dim, weight.data(), 1e-5f, cos.data(), sin.data(), y.data()}, pool);
      if (portable.empty()) portable = y;
      EXPECT_EQ(y, portable) << level->name << " " << head_dim;
    }
  }
}

TEST(Rows, HaveTheSameBitsOnEveryLevel) {
  RandomNumbers random(22);
  ThreadPool pool(1);
  for (int D : {15, 16, 17, 64, 2051}) {
    const int T = 3;
    const std::vector<float> x = random.Floats(T * D), add = random.Floats(T * D), weight = random.Floats(D);
    const std::vector<int32_t> row_of = {2, 0, 1, 1, 2, 0};
    std::vector<float> norm, sum;
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      std::vector<float> hidden(T * D), y(T * D), z(T * D);
      braid::Run(RmsNorm{T, D, x.data(), weight.data(), 1e-5f, y.data(), add.data(), hidden.data()}, pool);
      braid::Run(WeightedSum{T, D, 2, x.data(), row_of.data(), weight.data(), z.data()}, pool);
      if (norm.empty()) norm = y, sum = z;
      EXPECT_EQ(y, norm) << level->name << " " << D;
      EXPECT_EQ(z, sum) << level->name << " " << D;
    }
  }
}

}  // namespace
}  // namespace braid
