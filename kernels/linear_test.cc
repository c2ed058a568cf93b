#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/level.h"
#include "kernels/random_weights.h"
#include "kernels/ref/dequant.h"

namespace braid {
namespace {

// Columns around the edges of lanes, blocks and tiles; block types have whole blocks only.
std::vector<int> ColumnsFor(DType type) {
  switch (Info(type).elements) {
    case 1:
      return {1, 7, 8, 9, 31, 40, 511, 512, 513, 1032};
    case 32:
      return {32, 64, 512, 544, 1056};
    default:
      return {256, 512, 768, 1280};
  }
}

std::vector<float> Product(int T, const Matrix& w, const float* x, ThreadPool& pool) {
  std::vector<float> y(static_cast<size_t>(T) * w.rows, -1.0f);
  const Linear op{T, w, x, y.data()};
  EXPECT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  return y;
}

// Every output has |error| <= (chain of K / 8 + 3 roundings) * eps * sum of |w x|.
void ExpectNear(const Matrix& w, const std::vector<float>& x, const std::vector<float>& got, int T) {
  std::vector<float> want(got.size()), row(w.columns);
  ref::Run(Linear{T, w, x.data(), want.data()});
  for (int n = 0; n < w.rows; ++n) {
    Dequantize(w.type, w.row(n), w.columns, row.data());
    for (int t = 0; t < T; ++t) {
      double norm = 0;
      for (int k = 0; k < w.columns; ++k) norm += std::abs(double{row[k]} * double{x[t * w.columns + k]});
      const double bound = (w.columns / 8 + 5) * 0x1p-24 * norm;
      ASSERT_NEAR(got[t * w.rows + n], want[t * w.rows + n], bound)
          << Name(w.type) << " K=" << w.columns << " T=" << T << " t=" << t << " n=" << n;
    }
  }
}

class LinearOfType : public testing::TestWithParam<DType> {};

TEST_P(LinearOfType, AgreesWithTheReference) {
  RandomNumbers random(1);
  ThreadPool pool(2);
  for (int K : ColumnsFor(GetParam())) {
    for (int N : {1, 3, 12, 13, 29}) {
      const RandomMatrix w(random, GetParam(), N, K);
      for (int T : {1, 2, 3, 4, 5, 9, 67}) {
        const std::vector<float> x = random.Floats(static_cast<size_t>(T) * K);
        ExpectNear(w.matrix(), x, Product(T, w.matrix(), x.data(), pool), T);
      }
    }
  }
}

TEST_P(LinearOfType, GivesARowTheSameBitsInAnyCompanyOnAnyThreads) {
  RandomNumbers random(2);
  for (int K : ColumnsFor(GetParam())) {
    const int N = 31;
    const RandomMatrix w(random, GetParam(), N, K);
    const std::vector<float> x = random.Floats(size_t{131} * K);
    ThreadPool one(1);
    std::vector<float> alone;
    for (int t = 0; t < 131; ++t) {
      const std::vector<float> y = Product(1, w.matrix(), &x[t * K], one);
      alone.insert(alone.end(), y.begin(), y.end());
    }
    for (int threads : {1, 2, 3, 4}) {
      ThreadPool pool(threads);
      for (int T : {2, 3, 4, 5, 6, 7, 8, 17, 64, 65, 131}) {
        const int first = 131 - T;
        const std::vector<float> y = Product(T, w.matrix(), &x[first * K], pool);
        ASSERT_EQ(std::memcmp(y.data(), &alone[first * N], y.size() * sizeof(float)), 0)
            << Name(GetParam()) << " K=" << K << " T=" << T << " threads=" << threads;
      }
    }
  }
}

TEST_P(LinearOfType, GivesTheSameBitsOnEveryLevel) {
  RandomNumbers random(3);
  ThreadPool pool(1);
  for (int K : {256, 1280}) {
    const RandomMatrix w(random, GetParam(), 14, K);
    for (int T : {1, 2, 3, 4, 6, 13}) {
      const std::vector<float> x = random.Floats(static_cast<size_t>(T) * K);
      std::vector<float> portable;
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        const std::vector<float> y = Product(T, w.matrix(), x.data(), pool);
        if (portable.empty()) portable = y;
        ASSERT_EQ(y, portable) << level->name << " " << Name(GetParam()) << " K=" << K << " T=" << T;
      }
    }
  }
}

// A one-hot x picks out a column: exactly the dequantised weights.
TEST_P(LinearOfType, WidensWeightsExactlyAsTheReference) {
  RandomNumbers random(4);
  ThreadPool pool(1);
  const int K = 512, N = 2;
  const RandomMatrix w(random, GetParam(), N, K);
  std::vector<float> want(N * K), x(size_t{K} * K);
  Dequantize(GetParam(), w.matrix().data, N * K, want.data());
  for (int k = 0; k < K; ++k) x[k * K + k] = 1;
  const std::vector<float> y = Product(K, w.matrix(), x.data(), pool);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n) ASSERT_EQ(y[k * N + n], want[n * K + k]) << Name(GetParam()) << " " << n << " " << k;
}

INSTANTIATE_TEST_SUITE_P(AllTypes, LinearOfType, testing::ValuesIn(kAllDTypes),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(Linear, RunsSeveralAsItRunsEach) {
  RandomNumbers random(5);
  ThreadPool pool(3);
  const RandomMatrix a(random, DType::kQ4_0, 300, 64), b(random, DType::kF32, 7, 33), c(random, DType::kQ8_0, 41, 96);
  const std::vector<float> x = random.Floats(size_t{9} * 96);
  std::vector<float> ya(2 * 300), yb(9 * 7), yc(3 * 41), none;
  const Linear ops[] = {{2, a.matrix(), x.data(), ya.data()},
                        {0, a.matrix(), nullptr, nullptr},
                        {9, b.matrix(), x.data(), yb.data()},
                        {3, c.matrix(), x.data(), yc.data()}};
  for (const Linear& op : ops) EXPECT_TRUE(Check(op).ok());
  RunAll(ops, pool);
  EXPECT_EQ(ya, Product(2, a.matrix(), x.data(), pool));
  EXPECT_EQ(yb, Product(9, b.matrix(), x.data(), pool));
  EXPECT_EQ(yc, Product(3, c.matrix(), x.data(), pool));
}

TEST(Linear, RefusesHalfABlock) {
  const std::byte data[18] = {};
  float x[16], y[1];
  EXPECT_FALSE(Check(Linear{1, {DType::kQ4_0, 1, 16, data}, x, y}).ok());
  EXPECT_FALSE(Check(Linear{1, {DType::kF32, 1, 4, nullptr}, x, y}).ok());
  EXPECT_FALSE(Check(Linear{1, {DType::kF32, 1, 4, data}, nullptr, y}).ok());
}

}  // namespace
}  // namespace braid
