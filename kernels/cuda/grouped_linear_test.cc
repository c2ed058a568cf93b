#include "kernels/cuda/grouped_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/test_matrix.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/linear.h"
#include "kernels/random_weights.h"
#include "kernels/ref/dequant.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Case {
  DType x, w;
  DType y;
};

// Rows of x for a few experts, one of whom has none.
struct Problem {
  Problem(Case types, int N, int K, std::vector<int> rows_of, uint32_t seed)
      : types(types),
        N(N),
        K(K),
        E(static_cast<int>(rows_of.size())),
        random(seed),
        w(random, types.w == kFp8 ? DType::kF32 : types.w, E * N, K),
        weights(size_t(E) * N * K) {
    Dequantize(w.matrix().type, w.matrix().data, int64_t{E} * N * K, weights.data());
    if (types.w == kFp8) {
      w_copy.emplace(std::vector<float>(weights), K, &weights);
    } else {
      w_copy.emplace(w.matrix());
    }
    offsets.push_back(0);
    for (int rows : rows_of) offsets.push_back(offsets.back() + rows);
    const int M = offsets.back() / 2 + 1;
    x = random.Floats(size_t(M) * K, 2);
    if (types.x == DType::kBF16) x = AsFloats(Rounded<__nv_bfloat16>(x));
    if (types.x == kFp8) x_copy.emplace(std::vector<float>(x), K, &x);
    for (int r = 0; r < offsets.back(); ++r) source.push_back(random.Below(M));
  }

  // The rows [first, first + count) of every expert.
  template <typename X, typename Y>
  std::vector<float> RunTyped(GroupedLinearConfig config, bool swiglu, int first, int count, int extra) {
    std::vector<int32_t> some_source, some_offsets = {0};
    for (int e = 0; e < E; ++e) {
      for (int r = std::min(offsets[e] + first, offsets[e + 1]);
           r < std::min(offsets[e] + first + count, offsets[e + 1]); ++r)
        some_source.push_back(source[r]);
      some_offsets.push_back(static_cast<int32_t>(some_source.size()));
    }
    const std::vector<X> typed_x = types.x == kFp8 ? std::vector<X>() : Rounded<X>(x);
    GlobalArray<X> x_array(typed_x);
    GlobalArray<int32_t> source_array(some_source), offset_array(some_offsets);
    GlobalArray<Y> y(some_source.size() * N / (swiglu ? 2 : 1));
    GroupedLinear op{E,
                     N,
                     K,
                     types.x,
                     x_array.data(),
                     source_array.data(),
                     offset_array.data(),
                     static_cast<int>(some_source.size()) + extra,
                     w_copy->matrix(),
                     swiglu,
                     types.y,
                     y.data()};
    GlobalArray<int32_t> place_array(places);
    if (!places.empty()) op.places = place_array.data();
    if (types.x == kFp8) op.x = x_copy->matrix().data, op.x_scales = x_copy->matrix().scales;
    EXPECT_TRUE(Check(op).ok()) << Check(op);
    EXPECT_EQ(gpu::Run(op, config, nullptr), cudaSuccess);
    return AsFloats(y.values());
  }
  std::vector<float> Run(GroupedLinearConfig config, bool swiglu = false, int first = 0, int count = 1 << 20,
                         int extra = 0) {
    if (types.x == DType::kF32) {
      return types.y == DType::kF32 ? RunTyped<float, float>(config, swiglu, first, count, extra)
                                    : RunTyped<float, __nv_bfloat16>(config, swiglu, first, count, extra);
    }
    return types.y == DType::kF32 ? RunTyped<__nv_bfloat16, float>(config, swiglu, first, count, extra)
                                  : RunTyped<__nv_bfloat16, __nv_bfloat16>(config, swiglu, first, count, extra);
  }

  // With u = 2^-24: K products, each of them and each sum rounded; tensor cores may cut off where they should round.
  void ExpectNearReference(const std::vector<float>& got, bool swiglu) const {
    const double rounding = types.y == DType::kBF16 ? kRounding<__nv_bfloat16> : 0;
    std::vector<double> value(N), bound(N);
    for (int e = 0; e < E; ++e) {
      for (int r = offsets[e]; r < offsets[e + 1]; ++r) {
        for (int n = 0; n < N; ++n) {
          const float* row = &weights[(size_t(e) * N + n) * K];
          double magnitude = value[n] = 0;
          for (int k = 0; k < K; ++k) {
            const double product = double{row[k]} * double{x[size_t(source[r]) * K + k]};
            value[n] += product, magnitude += std::abs(product);
          }
          bound[n] = 2 * (K + 2) * 0x1p-24 * magnitude;
        }
        for (int n = 0; n < N; ++n) {
          if (!swiglu) {
            ASSERT_NEAR(got[size_t(r) * N + n], value[n], bound[n] + rounding * std::abs(value[n])) << r << " " << n;
          } else if (n % 16 < 8) {
            // |silu'| is below 1.1; silu and the product are off by a few u.
            const double gate = value[n], up = value[n + 8], silu = gate / (1 + std::exp(-gate));
            const double off =
                1.1 * bound[n] * std::abs(up) + std::abs(silu) * bound[n + 8] + 1.1 * bound[n] * bound[n + 8];
            ASSERT_NEAR(got[size_t(r) * N / 2 + n / 16 * 8 + n % 8], silu * up,
                        off + (8 * 0x1p-24 + rounding) * std::abs(silu * up))
                << r << " " << n;
          }
        }
      }
    }
  }

  // From now on the device has the matrices of the experts that have a place, in the order of their places.
  void Place(std::vector<int32_t> places_of_experts) {
    places = std::move(places_of_experts);
    const braid::Matrix from = w.matrix();
    const size_t matrix_bytes = from.row_bytes() * static_cast<size_t>(N), matrix_size = size_t(N) * K;
    const int count = *std::max_element(places.begin(), places.end()) + 1;
    std::vector<std::byte> bytes(count * matrix_bytes);
    std::vector<float> placed(count * matrix_size);
    for (int e = 0; e < E; ++e) {
      if (places[e] < 0) continue;
      std::memcpy(&bytes[places[e] * matrix_bytes], from.row(int64_t{e} * N), matrix_bytes);
      std::copy_n(&weights[e * matrix_size], matrix_size, &placed[places[e] * matrix_size]);
    }
    if (types.w == kFp8) {
      w_copy.emplace(std::vector<float>(placed), K, &placed);
    } else {
      w_copy.emplace(braid::Matrix{from.type, count * N, K, bytes.data()});
    }
  }

  Case types;
  int N, K, E;
  RandomNumbers random;
  RandomMatrix w;
  std::vector<float> weights;                // (E * N, K), what W stands for
  std::optional<DeviceCopy> w_copy, x_copy;  // the latter for FP8
  std::vector<int32_t> offsets, source, places;
  std::vector<float> x;
};

std::string NameOf(DType type) { return type == kFp8 ? "FP8" : std::string(Name(type)); }
std::ostream& operator<<(std::ostream& out, const Case& types) {
  return out << NameOf(types.x) << " " << NameOf(types.w) << " " << NameOf(types.y);
}

constexpr Case kCases[] = {{DType::kF32, DType::kF32, DType::kF32},
                           {DType::kF32, DType::kBF16, DType::kF32},
                           {DType::kF32, DType::kQ4_0, DType::kBF16},
                           {DType::kBF16, DType::kBF16, DType::kBF16},
                           {DType::kBF16, DType::kBF16, DType::kF32},
                           {DType::kBF16, DType::kQ4_0, DType::kBF16},
                           {DType::kBF16, DType::kQ4_0, DType::kF32},
                           {DType::kF32, kFp8, DType::kF32},
                           {DType::kBF16, kFp8, DType::kBF16},
                           {kFp8, kFp8, DType::kF32},
                           {kFp8, kFp8, DType::kBF16}};

// An older GPU has no such products, and a kernel of them would be the last thing that it runs.
bool MultipliesFp8() {
#ifdef BRAID_ON_GPU
  cudaDeviceProp device;
  return cudaGetDeviceProperties(&device, 0) == cudaSuccess && 10 * device.major + device.minor >= 89;
#else
  return true;
#endif
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const Case& types : kCases)
    if (types.x != kFp8 || MultipliesFp8()) cases.push_back(types);
  return cases;
}

// Configs for a case, smallest tiles first.
std::vector<GroupedLinearConfig> ConfigsOf(const Case& types) {
  std::vector<GroupedLinearConfig> configs = {{16}, {64}};
  if (types.x != DType::kF32 && types.w != DType::kQ4_0) configs.push_back({GroupedLinearConfig::kWideRows});
  return configs;
}

TEST(GroupedLinearKernel, AgreesWithTheReference) {
  for (const Case& types : Cases()) {
    SCOPED_TRACE(testing::Message() << types);
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      for (const auto& [N, K] : {std::array{16, 32}, {80, 96}, {64, 160}}) {
        Problem problem(types, N, K, {3, 0, 17, 1}, static_cast<uint32_t>(seed));
        const std::vector<GroupedLinearConfig> configs = ConfigsOf(types);
        const GroupedLinearConfig config = configs[seed % configs.size()];
        problem.ExpectNearReference(problem.Run(config), false);
        problem.ExpectNearReference(problem.Run(config, true), true);
      }
    }
  }
}

TEST(GroupedLinearKernel, TakesColumnsThatAreNoWholeSlice) {
  for (const Case& types : Cases()) {
    if (types.w == DType::kQ4_0) continue;
    for (int K : {8, 40, 72, 136}) {
      if (types.w == kFp8) K = (K + 8) / 16 * 16;
      Problem problem(types, 24, K, {5, 2}, 3);
      for (const GroupedLinearConfig& config : ConfigsOf(types))
        problem.ExpectNearReference(problem.Run(config), false);
    }
  }
}

TEST(GroupedLinearKernel, GivesARowTheSameBitsInAnyTileAndBatch) {
  for (const Case& types : Cases()) {
    SCOPED_TRACE(testing::Message() << types);
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      Problem problem(types, 48, 96, {70, 0, 5}, 4);
      for (const bool swiglu : {false, true}) {
        const std::vector<float> whole = problem.Run({16}, swiglu);
        for (const GroupedLinearConfig& config : ConfigsOf(types)) {
          if (config.tile_rows == 16) continue;
          EXPECT_TRUE(SameBits(problem.Run(config, swiglu, 0, 1 << 20, swiglu ? 300 : 0), whole)) << config.tile_rows;
        }
        const size_t width = swiglu ? 24 : 48;
        const std::vector<float> some =
            problem.Run({16}, swiglu, 3, 4);  // rows 3 to 6 of the first, 3 and 4 of the last
        EXPECT_TRUE(std::equal(some.begin(), some.begin() + 4 * width, whole.begin() + 3 * width));
        EXPECT_TRUE(std::equal(some.begin() + 4 * width, some.end(), whole.begin() + 73 * width));
      }
    }
  }
}

// Of numbers so far apart that what a sum keeps depends on what is added up at once, and that some are subnormal.
TEST(GroupedLinearKernel, GivesARowTheSameBitsWhateverIsLostInItsSums) {
  for (const Case& types : kCases) {
    if (types.x == DType::kF32 || types.y != DType::kF32) continue;
    SCOPED_TRACE(testing::Message() << types);
    Problem problem(types, 48, 352, {70, 0, 5}, 8);
    for (size_t i = 0; i < problem.x.size(); ++i) {
      const int row = static_cast<int>(i) / problem.K;
      problem.x[i] = std::ldexp(problem.x[i], static_cast<int>(i * 7 % 29) - (row % 3 == 0 ? 140 : 14));
    }
    problem.x = AsFloats(Rounded<__nv_bfloat16>(problem.x));
    if (types.x == kFp8) problem.x_copy.emplace(std::vector<float>(problem.x), problem.K, &problem.x);
    const std::vector<float> whole = problem.Run({16});
    for (const GroupedLinearConfig& config : ConfigsOf(types))
      EXPECT_TRUE(SameBits(problem.Run(config), whole)) << config.tile_rows;
    const std::vector<float> some = problem.Run({16}, false, 3, 2);
    EXPECT_TRUE(std::equal(some.begin(), some.begin() + 96, whole.begin() + 3 * 48));
  }
}

TEST(GroupedLinearKernel, GivesWideTilesTheBitsOfSmallOnes) {
  for (const DType w : {DType::kBF16, kFp8}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      // More slices than are on their way at once, and ends of tiles in rows, outputs and columns.
      Problem problem({DType::kBF16, w, DType::kF32}, 144, 336, {130, 3}, static_cast<uint32_t>(seed));
      const bool swiglu = seed % 2 == 1;
      EXPECT_TRUE(SameBits(problem.Run({GroupedLinearConfig::kWideRows}, swiglu), problem.Run({64}, swiglu)));
    }
  }
}

TEST(GroupedLinearKernel, GivesFp8TheBitsOfTheSameWeightsInBfloat16) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    Problem problem({DType::kBF16, kFp8, DType::kF32}, 48, 208, {70, 0, 5}, static_cast<uint32_t>(seed));
    const std::vector<float> fp8 = problem.Run({16});
    EXPECT_TRUE(SameBits(problem.Run({64}), fp8));
    const std::vector<__nv_bfloat16> weights = Rounded<__nv_bfloat16>(problem.weights);
    problem.w_copy.emplace(braid::Matrix{DType::kBF16, problem.E * problem.N, problem.K,
                                         reinterpret_cast<const std::byte*>(weights.data())});
    EXPECT_TRUE(SameBits(problem.Run({64}), fp8));
  }
}

// Rows of a tile have scales of their own; a slice is a block, and the last one is a part of one.
TEST(GroupedLinearKernel, MultipliesFp8ByFp8BlockByBlock) {
  if (!MultipliesFp8()) GTEST_SKIP() << "not this GPU";
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    Problem problem({kFp8, kFp8, DType::kF32}, 80, 400, {30, 0, 3}, static_cast<uint32_t>(seed));
    for (size_t i = 0; i < problem.x.size(); ++i) problem.x[i] *= std::ldexp(1.0f, static_cast<int>(i / 128 % 7) - 3);
    problem.x_copy.emplace(std::vector<float>(problem.x), problem.K, &problem.x);
    const std::vector<float> got = problem.Run({16});
    problem.ExpectNearReference(got, false);
    for (const int rows : {64, GroupedLinearConfig::kWideRows}) EXPECT_TRUE(SameBits(problem.Run({rows}), got)) << rows;
  }
}

template <typename T>
void ExpectQuantizedAsOnTheHost(uint32_t seed) {
  RandomNumbers random(seed);
  for (const int D : {16, 128, 144, 400}) {
    constexpr int kT = 5;
    std::vector<float> x = random.Floats(kT * D, 3);
    for (float& number : x) number *= std::ldexp(1.0f, -random.Below(16));
    x[0] = 448, x[1] = -0.0f;
    std::fill_n(x.begin() + D, D, 0.0f);
    x = AsFloats(Rounded<T>(x));
    GlobalArray<T> from(Rounded<T>(x));
    GlobalArray<uint8_t> y(kT * D);
    GlobalArray<uint16_t> scales(kT * Fp8Blocks(D));
    const QuantizeRows op{kT, D, kTypeOf<T>, from.data(), y.data(), scales.data()};
    ASSERT_TRUE(Check(op).ok()) << Check(op);
    ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
    for (int t = 0; t < kT; ++t) {
      std::vector<uint8_t> quants(D);
      std::vector<uint16_t> want(Fp8Blocks(D));
      ASSERT_TRUE(QuantizeFp8(&x[t * D], D, quants.data(), want.data()).ok());
      for (int k = 0; k < D; ++k) {
        const float got = FloatFromE4M3(y[t * D + k]) * FloatFromBFloat16(scales[t * Fp8Blocks(D) + k / kFp8Block]);
        ASSERT_EQ(got, FloatFromE4M3(quants[k]) * FloatFromBFloat16(want[k / kFp8Block])) << D << " " << k;
      }
    }
  }
}

TEST(QuantizeRowsKernel, RoundsAsOnTheHost) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    ExpectQuantizedAsOnTheHost<float>(static_cast<uint32_t>(seed));
    ExpectQuantizedAsOnTheHost<__nv_bfloat16>(static_cast<uint32_t>(seed));
  }
}

TEST(QuantizeRowsKernel, PicksTheRowsThatThereAre) {
  constexpr int kD = 144, kBlocks = 2;
  const std::vector<float> x = RandomNumbers(5).Floats(3 * kD);
  GlobalArray<float> from(x);
  GlobalArray<int32_t> source(std::vector<int32_t>{2, 0, 2, 1 << 30}), rows(std::vector<int32_t>{3});
  GlobalArray<uint8_t> all(3 * kD), picked(std::vector<uint8_t>(4 * kD, 0x55));
  GlobalArray<uint16_t> all_scales(3 * kBlocks), scales(std::vector<uint16_t>(4 * kBlocks, 0x5555));
  ASSERT_EQ(gpu::Run(QuantizeRows{3, kD, DType::kF32, from.data(), all.data(), all_scales.data()}, nullptr),
            cudaSuccess);
  QuantizeRows op{4, kD, DType::kF32, from.data(), picked.data(), scales.data()};
  op.source = source.data();
  op.rows = rows.data();
  ASSERT_TRUE(Check(op).ok()) << Check(op);
  ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
  for (int row = 0; row < 3; ++row) {
    EXPECT_EQ(std::memcmp(&picked[row * kD], &all[source[row] * kD], kD), 0) << row;
    EXPECT_EQ(std::memcmp(&scales[row * kBlocks], &all_scales[source[row] * kBlocks], 2 * kBlocks), 0) << row;
  }
  EXPECT_EQ(picked[3 * kD], 0x55);
  EXPECT_EQ(scales[3 * kBlocks], 0x5555);
}

TEST(QuantizeRowsKernel, PassesOnWhatIsNotFinite) {
  std::vector<float> x(2 * 256, 1.0f);
  x[3] = INFINITY, x[256 + 200] = NAN;
  GlobalArray<float> from(x);
  GlobalArray<uint8_t> y(2 * 256);
  GlobalArray<uint16_t> scales(4);
  ASSERT_EQ(gpu::Run(QuantizeRows{2, 256, DType::kF32, from.data(), y.data(), scales.data()}, nullptr), cudaSuccess);
  for (int block = 0; block < 4; ++block)
    EXPECT_EQ(std::isnan(FloatFromBFloat16(scales[block])), block == 0 || block == 3) << block;
}

TEST(GroupedLinearKernel, FindsTheMatricesOfExpertsWhereverTheyLie) {
  for (const Case& types : Cases()) {
    SCOPED_TRACE(testing::Message() << types);
    Problem problem(types, 48, 96, {20, 0, 5, 1}, 7);
    const std::vector<float> in_order = problem.Run({16});
    problem.Place({2, -1, 0, 1});  // the expert without rows has none
    for (const GroupedLinearConfig& config : ConfigsOf(types))
      EXPECT_TRUE(SameBits(problem.Run(config), in_order)) << config.tile_rows;
  }
}

TEST(GroupedLinearKernel, FindsTilesAmongManyExperts) {
  std::vector<int> rows(70);
  for (int e = 0; e < 70; ++e) rows[e] = e % 3 == 0 ? 0 : e % 7;
  rows[69] = 20;
  Problem problem({DType::kBF16, DType::kBF16, DType::kF32}, 8, 32, rows, 6);
  problem.ExpectNearReference(problem.Run({16}), false);
}

TEST(GroupedLinear, TakesTilesThatHoldAnExpertsRows) {
  GroupedLinear op;
  op.E = 32;
  op.rows_max = 4;
  EXPECT_EQ(Choose(op).tile_rows, 16);
  op.rows_max = 4 * 512;
  op.N = 2048;
  op.w.type = DType::kBF16;
  EXPECT_EQ(Choose(op).tile_rows, 64);
  op.rows_max = 4 * 1024;
  EXPECT_EQ(Choose(op).tile_rows, 128);
  op.w.type = DType::kQ4_0;
  EXPECT_EQ(Choose(op).tile_rows, 64);
  op.w.type = op.type = kFp8;
  EXPECT_EQ(Choose(op).tile_rows, 128);
  op.type = DType::kBF16, op.E = 1, op.rows_max = 256;
  EXPECT_EQ(Choose(op).tile_rows, 64) << "32 wide tiles leave most of a GPU idle";
  op.rows_max = 4096, op.K = GroupedLinearConfig::kWideBlocksMax * kFp8Block;
  EXPECT_EQ(Choose(op).tile_rows, 128);
  op.K += 16;
  EXPECT_EQ(Choose(op).tile_rows, 64) << "more scales than fit a block of the least GPU";
  EXPECT_EQ(RunWide(op, nullptr), cudaErrorInvalidConfiguration);
}

TEST(GroupedLinearKernel, HasNoWideTilesForFourBits) {
  EXPECT_EQ(RunMma({.w = {DType::kQ4_0}}, {GroupedLinearConfig::kWideRows}, nullptr), cudaErrorInvalidConfiguration);
}

TEST(GroupedLinear, CheckNamesWhatIsWrong) {
  alignas(16) float numbers[64] = {};
  const int32_t offsets[2] = {};
  GroupedLinear good{1, 16, 32, DType::kF32, numbers, nullptr, offsets, 1, {DType::kF32, 16, 32, numbers}};
  good.y = numbers;
  EXPECT_TRUE(Check(good).ok()) << Check(good);
  GroupedLinear op = good;
  op.E = 2;
  EXPECT_EQ(Check(op).message(), "w must be (E * N, K)");
  op = good, op.E = 3, op.places = offsets;
  EXPECT_TRUE(Check(op).ok()) << "one matrix of three is here";
  op.N = 8, op.w.rows = 12;
  EXPECT_EQ(Check(op).message(), "w must be some matrices of (N, K)");
  op = good, op.type = DType::kBF16;
  EXPECT_EQ(Check(op).message(), "w must not be F32 if x is BF16");
  op = good, op.N = op.w.rows = 24, op.swiglu = true;
  EXPECT_EQ(Check(op).message(), "N must be a multiple of 8, or of 16 with swiglu");
  op = good, op.w.type = DType::kQ4_0;
  EXPECT_EQ(Check(op).message(), "w's scales must be set");
  op.w.type = kFp8;
  EXPECT_EQ(Check(op).message(), "w's scales must be set");
  const uint16_t scales[16] = {};
  op.w.scales = scales, op.K = op.w.columns = 24;
  EXPECT_EQ(Check(op).message(), "w's columns must be a multiple of 16");
  op = good, op.type = kFp8;
  EXPECT_EQ(Check(op).message(), "w must be FP8 if x is");
  op.w.type = kFp8, op.w.scales = scales;
  EXPECT_EQ(Check(op).message(), "x_scales must be set");
}

}  // namespace
}  // namespace braid::gpu
