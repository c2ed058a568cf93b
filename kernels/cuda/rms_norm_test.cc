#include "kernels/cuda/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/quantize_fp8.h"
#include "kernels/half.h"
#include "kernels/random_weights.h"
#include "kernels/rms_norm.h"
#include "tests/cuda_emulator/global_array.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Case {
  int T, D, threads;
  bool vector, residual;
};

struct Result {
  std::vector<float> y, sum;
  std::vector<uint16_t> y_bf16;
  bool operator==(const Result&) const = default;
};

// A chain of `adds` roundings in the sum of squares, all of whose terms are positive, is halved by the root; then the
// mean, eps, the root (2 ulp on a GPU), two products and the reference's own rounding.
float Bound(const Case& c) {
  const int per_load = c.vector ? 4 : 1;
  const int adds = (c.D + c.threads * per_load - 1) / (c.threads * per_load) * per_load + 5 + c.threads / 32;
  return (adds / 2.0f + 9) * 0x1p-24f;
}

Result RunCase(const Case& c, const std::vector<float>& x, const std::vector<float>& add,
               const std::vector<float>& weight) {
  GlobalArray<float> x_array(x), add_array(add), weight_array(weight), y(x.size());
  GlobalArray<__nv_bfloat16> y_bf16(x.size());
  RmsNorm op{c.T, c.D, x_array.data(), weight_array.data(), 1e-5f};
  op.y = y.data();
  op.y_bf16 = y_bf16.data();
  if (c.residual) {
    op.add = add_array.data();
    op.sum = x_array.data();
  }
  EXPECT_TRUE(Check(op).ok());
  EXPECT_EQ(Run(op, {c.threads, c.vector}, nullptr), cudaSuccess);
  Result result{y.values(), x_array.values(), std::vector<uint16_t>(x.size())};
  std::memcpy(result.y_bf16.data(), y_bf16.data(), x.size() * 2);
  return result;
}

void ExpectAgrees(const Case& c, const Result& got, const std::vector<float>& x, const std::vector<float>& add,
                  const std::vector<float>& weight) {
  std::vector<float> sum = x, want(x.size());
  for (size_t i = 0; i < x.size() && c.residual; ++i) sum[i] += add[i];
  ASSERT_EQ(got.sum, sum);
  braid::ref::Run(braid::RmsNorm{c.T, c.D, sum.data(), weight.data(), 1e-5f, want.data()});
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(got.y[i], want[i], Bound(c) * std::abs(want[i])) << i;
    ASSERT_EQ(got.y_bf16[i], BFloat16FromFloat(got.y[i])) << i;
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const std::vector<int> threads = simt::kManyThreads ? std::vector<int>{32, 64, 128, 256} : std::vector<int>{32, 64};
  for (int count : threads) {
    for (int D : {1, 31, 32, 33, count - 1, count, count + 1, 4 * count - 4, 4 * count, 4 * count + 4, 8 * count + 4}) {
      cases.push_back({3, D, count, false, D % 2 == 0});
      if (D % 4 == 0) cases.push_back({2, D, count, true, D % 3 != 0});
    }
  }
  return cases;
}

TEST(GpuRmsNorm, AgreesWithTheReferenceAndDoesNotDependOnTheSchedule) {
  RandomNumbers random(21);
  for (const Case& c : Cases()) {
    const std::vector<float> x = random.Floats(size_t(c.T) * c.D, 5), add = random.Floats(size_t(c.T) * c.D, 2),
                             weight = random.Floats(c.D);
    Result first;
    for (uint64_t seed : simt::Seeds()) {
      SCOPED_TRACE("T " + std::to_string(c.T) + " D " + std::to_string(c.D) + " threads " + std::to_string(c.threads) +
                   " vector " + std::to_string(c.vector) + " seed " + std::to_string(seed));
      simt::SetSeed(seed);
      const Result got = RunCase(c, x, add, weight);
      if (first.y.empty()) {
        ASSERT_NO_FATAL_FAILURE(ExpectAgrees(c, got, x, add, weight));
        first = got;
      }
      ASSERT_EQ(got, first);
    }
  }
}

TEST(GpuRmsNorm, GivesARowTheSameBitsInAnyBatch) {
  RandomNumbers random(22);
  const int D = 260;
  const std::vector<float> x = random.Floats(size_t{5} * D), weight = random.Floats(D);
  const Result all = RunCase({5, D, 64, true, false}, x, x, weight);
  for (int t = 0; t < 5; ++t) {
    const std::vector<float> row(x.begin() + t * D, x.begin() + (t + 1) * D);
    const Result alone = RunCase({1, D, 64, true, false}, row, row, weight);
    ASSERT_EQ(std::memcmp(alone.y.data(), all.y.data() + t * D, D * sizeof(float)), 0) << t;
  }
}

// By the host's rule: of the floats that the same launch stores.
TEST(GpuRmsNorm, QuantizesWhatItHasNormed) {
  RandomNumbers random(23);
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    for (const int D : {16, 128, 144, 400, 1040}) {
      for (const int threads : {32, 64}) {
        constexpr int kT = 2;
        GlobalArray<float> x(random.Floats(size_t{kT} * D, 5)), weight(random.Floats(D)), y(size_t{kT} * D);
        GlobalArray<uint8_t> y_fp8(size_t{kT} * D);
        GlobalArray<uint16_t> scales(size_t{kT} * Fp8Blocks(D));
        RmsNorm op{kT, D, x.data(), weight.data(), 1e-5f};
        op.y = y.data(), op.y_fp8 = y_fp8.data(), op.y_scales = scales.data();
        ASSERT_TRUE(Check(op).ok()) << Check(op);
        ASSERT_EQ(gpu::Run(op, {threads, true}, nullptr), cudaSuccess);
        const std::vector<float> normed = y.values();
        for (int t = 0; t < kT; ++t) {
          std::vector<uint8_t> quants(D);
          std::vector<uint16_t> want(Fp8Blocks(D));
          ASSERT_TRUE(QuantizeFp8(&normed[t * D], D, quants.data(), want.data()).ok());
          for (int k = 0; k < D; ++k) ASSERT_EQ(y_fp8[t * D + k], quants[k]) << D << " " << k;
          for (int b = 0; b < Fp8Blocks(D); ++b) ASSERT_EQ(scales[t * Fp8Blocks(D) + b], want[b]) << D << " " << b;
        }
      }
    }
  }
}

TEST(GpuRmsNorm, ChoosesWhatItMayRun) {
  alignas(16) float x[4096], weight[4096], y[4096];
  RmsNorm op{1, 2048, x, weight, 1e-5f};
  op.y = y;
  EXPECT_EQ(Choose(op).threads, 256);
  EXPECT_TRUE(Choose(op).vector);
  op.D = 30;
  EXPECT_EQ(Choose(op).threads, 32);
  EXPECT_FALSE(Choose(op).vector);
  op.D = 64;
  op.y = y + 1;
  EXPECT_FALSE(Choose(op).vector);
}

TEST(GpuRmsNorm, RefusesWhatItCannotRun) {
  float x[32], y[32];
  RmsNorm op{1, 32, x, x, 1e-5f};
  EXPECT_FALSE(Check(op).ok());  // nowhere to
  op.y = y;
  EXPECT_TRUE(Check(op).ok());
  op.add = x;
  EXPECT_FALSE(Check(op).ok());  // a sum to nowhere
  op.sum = y;
  EXPECT_FALSE(Check(op).ok());  // over the sum
  alignas(16) float numbers[32];
  alignas(16) uint8_t y_fp8[32];
  uint16_t scale;
  op = {1, 32, numbers, numbers, 1e-5f};
  op.y_fp8 = y_fp8;
  EXPECT_FALSE(Check(op).ok());  // no scales
  op.y_scales = &scale;
  EXPECT_TRUE(Check(op).ok()) << Check(op);
  op.D = 24;
  EXPECT_FALSE(Check(op).ok());
}

}  // namespace
}  // namespace braid::gpu
