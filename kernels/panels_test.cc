// Panels, quantised rows and the int8 products of the two.

#include "kernels/panels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/level.h"
#include "kernels/linear.h"
#include "kernels/random_weights.h"
#include "kernels/ref/dequant.h"

namespace braid {
namespace {

std::vector<DType> TypesWithPanels() {
  std::vector<DType> types;
  for (DType type : kAllDTypes)
    if (HasPanels(type)) types.push_back(type);
  return types;
}

std::vector<int> ColumnsFor(DType type) {
  return Info(type).elements == 32 ? std::vector<int>{32, 64, 96, 1792} : std::vector<int>{256, 512, 1792};
}

std::vector<QuantBlock> Quantized(int T, int K, const std::vector<float>& x, ThreadPool& pool) {
  std::vector<QuantBlock> q(static_cast<size_t>(T) * K / 32);
  const QuantizeRows op{T, K, x.data(), q.data()};
  EXPECT_TRUE(Check(op).ok());
  Run(op, pool);
  return q;
}

std::vector<float> Product(int T, const Matrix& w, const QuantBlock* q, ThreadPool& pool) {
  std::vector<float> y(static_cast<size_t>(T) * w.rows, -1.0f);
  const Linear op{T, w, nullptr, y.data(), q};
  EXPECT_TRUE(Check(op).ok());
  Run(op, pool);
  return y;
}

bool SameBits(const std::vector<QuantBlock>& a, const std::vector<QuantBlock>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(QuantBlock)) == 0;
}

class PanelsOfType : public testing::TestWithParam<DType> {};

TEST_P(PanelsOfType, HoldExactlyTheWeightsThatWerePacked) {
  RandomNumbers random(1);
  for (int K : ColumnsFor(GetParam())) {
    for (int N : {1, 31, 32, 33, 80}) {
      const RandomMatrix rows(random, GetParam(), N, K);
      const PackedMatrix packed(rows.matrix());
      std::vector<float> want(K), got(K);
      for (int n = 0; n < N; ++n) {
        Dequantize(GetParam(), rows.matrix().row(n), K, want.data());
        DequantizePackedRow(packed.matrix(), n, got.data());
        ASSERT_EQ(got, want) << Name(GetParam()) << " K=" << K << " N=" << N << " n=" << n;
      }
    }
  }
}

// The integer dots are exact; what rounds is the product of the scales and one fused operation per scale:
// |error| <= (scales in a row + 2) * eps * sum over them of |dot * scales|, and the last sum is at most that of |w x|
// (plus, with minima, that of the two parts a weight is the difference of).
TEST_P(PanelsOfType, MultiplyWithinTheBoundOnEveryLevel) {
  RandomNumbers random(2);
  ThreadPool pool(2);
  for (int K : ColumnsFor(GetParam())) {
    for (int N : {1, 32, 33, 64}) {
      const RandomMatrix rows(random, GetParam(), N, K);
      const PackedMatrix packed(rows.matrix());
      std::vector<float> w(K);
      for (int T : {1, 2, 3, 5, 6, 7, 11, 12, 13, 129}) {
        const std::vector<float> x = random.Floats(static_cast<size_t>(T) * K);
        const std::vector<QuantBlock> q = Quantized(T, K, x, pool);
        std::vector<float> want(static_cast<size_t>(T) * N);
        ref::Run(Linear{T, packed.matrix(), nullptr, want.data(), q.data()});
        for (const CpuLevel* level : SupportedCpuLevels()) {
          if (level->name == "portable" && T > 13) continue;  // slow
          const ScopedCpuLevel scope(level);
          const std::vector<float> got = Product(T, packed.matrix(), q.data(), pool);
          for (int n = 0; n < N; ++n) {
            DequantizePackedRow(packed.matrix(), n, w.data());
            for (int t = 0; t < T; ++t) {
              double norm = 0;
              for (int k = 0; k < K; ++k) {
                const QuantBlock& block = q[(static_cast<size_t>(t) * K + k) / 32];
                norm += 4 * std::abs(double{w[k]} * block.q[k % 32] * double{block.scale});
              }
              const double bound = (K / 16 + 4) * 0x1p-24 * norm + 1e-30;
              ASSERT_NEAR(got[t * N + n], want[t * N + n], bound)
                  << level->name << " " << Name(GetParam()) << " K=" << K << " T=" << T << " t=" << t << " n=" << n;
            }
          }
        }
      }
    }
  }
}

TEST_P(PanelsOfType, GiveARowTheSameBitsInAnyCompanyOnAnyThreadsAndLevel) {
  RandomNumbers random(3);
  const int K = 512, N = 97, T = 131;
  const RandomMatrix rows(random, GetParam(), N, K);
  const PackedMatrix packed(rows.matrix());
  ThreadPool one(1);
  const std::vector<float> x = random.Floats(size_t{T} * K);
  const std::vector<QuantBlock> q = Quantized(T, K, x, one);
  std::vector<float> alone;
  for (int t = 0; t < T; ++t) {
    const std::vector<float> y = Product(1, packed.matrix(), &q[t * K / 32], one);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  for (const CpuLevel* level : SupportedCpuLevels()) {
    const ScopedCpuLevel scope(level);
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      for (int count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, T}) {
        const std::vector<float> y = Product(count, packed.matrix(), q.data(), pool);
        ASSERT_EQ(std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)), 0)
            << level->name << " " << Name(GetParam()) << " T=" << count << " threads=" << threads;
      }
    }
  }
}

// The largest dots there can be, all of one sign: nothing saturates, nothing leaves the range that FromMagic needs.
TEST_P(PanelsOfType, AreExactAtTheEndsOfTheirRange) {
  const int K = 256;
  std::vector<std::byte> row(RowBytes(GetParam(), K));
  ThreadPool pool(1);
  for (int fill : {0x00, 0xFF, 0x80, 0x7F}) {
    std::memset(row.data(), fill, row.size());
    const size_t block = static_cast<size_t>(Info(GetParam()).bytes);
    for (size_t at = 0; at < row.size(); at += block) {  // scales of one
      const uint16_t one = 0x3C00;
      std::memcpy(&row[at + (GetParam() == DType::kQ6_K ? 208 : 0)], &one, 2);
      if (GetParam() == DType::kQ4_K || GetParam() == DType::kQ5_K) std::memcpy(&row[at + 2], &one, 2);
    }
    const Matrix w{GetParam(), 1, K, row.data()};
    const PackedMatrix packed(w);
    for (float sign : {-1.0f, 1.0f}) {
      const std::vector<QuantBlock> q = Quantized(1, K, std::vector<float>(K, sign * 127), pool);
      std::vector<float> want(1);
      ref::Run(Linear{1, packed.matrix(), nullptr, want.data(), q.data()});
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        EXPECT_EQ(Product(1, packed.matrix(), q.data(), pool), want) << level->name << " " << fill << " " << sign;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, PanelsOfType, testing::ValuesIn(TypesWithPanels()),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(QuantizeRows, AgreesWithTheReferenceOnEveryLevel) {
  RandomNumbers random(4);
  ThreadPool pool(2);
  const int T = 5, K = 96;
  for (float limit : {1.0f, 1e-30f, 1e-39f, 1e30f, 3e38f}) {
    std::vector<float> x = random.Floats(T * K, limit);
    std::fill_n(x.begin(), 32, 0.0f);
    x[40] = 0.5f * x[41];  // a tie now and then
    std::vector<QuantBlock> want(T * K / 32);
    ref::Run(QuantizeRows{T, K, x.data(), want.data()});
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      EXPECT_TRUE(SameBits(Quantized(T, K, x, pool), want)) << level->name << " " << limit;
    }
  }
}

TEST(QuantizeRows, IsWithinHalfAStep) {
  RandomNumbers random(5);
  ThreadPool pool(1);
  const int K = 4096;
  const std::vector<float> x = random.Floats(K);
  const std::vector<QuantBlock> q = Quantized(1, K, x, pool);
  for (int k = 0; k < K; ++k) {
    const QuantBlock& block = q[k / 32];
    // Half a step, and the rounding of the scale and of its reciprocal at 127 steps.
    EXPECT_NEAR(block.q[k % 32] * block.scale, x[k], block.scale * (0.5 + 127 * 3 * 0x1p-24));
  }
}

TEST(QuantizeRows, LetsNothingThatIsNotFinitePassForANumber) {
  ThreadPool pool(1);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      std::vector<float> x(64, 1.0f);
      x[17] = bad;
      const std::vector<QuantBlock> q = Quantized(1, 64, x, pool);
      EXPECT_FALSE(std::isfinite(q[0].scale)) << level->name;
      EXPECT_EQ(q[1].scale, 1.0f / 127) << level->name;
    }
  }
}

}  // namespace
}  // namespace braid
