// The kernels that work row by row: gather, heads, combine, SwiGLU.

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cuda/combine.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/qkv_heads.h"
#include "kernels/cuda/swiglu.h"
#include "kernels/cuda/test_matrix.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/pointwise.h"
#include "kernels/random_weights.h"
#include "kernels/ref/dequant.h"
#include "kernels/rope.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

template <typename T>
class RowKernels : public testing::Test {};
using Activations = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(RowKernels, Activations);

TYPED_TEST(RowKernels, GatherGivesTheBitsOfTheCpu) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(seed);
    for (const DType type : {DType::kF32, DType::kBF16, DType::kQ4_0}) {
      for (const int D : {32, 8, 96, 2080}) {
        if (D % Info(type).elements != 0) continue;
        const RandomMatrix table(random, type, 7, D);
        const DeviceCopy copy(table.matrix());
        const int rows[] = {6, 0, 3, 4, 0};
        GlobalArray<int32_t> ids(std::vector<int32_t>{6, 0, 3, ~1, ~0}), drawn(std::vector<int32_t>{-1, 4});
        GlobalArray<TypeParam> y(5 * D);
        const Gather op{5, copy.matrix(), ids.data(), kTypeOf<TypeParam>, y.data(), drawn.data()};
        ASSERT_TRUE(Check(op).ok()) << Check(op);
        ASSERT_EQ(Run(op, nullptr), cudaSuccess);
        std::vector<float> want(D);
        for (int t = 0; t < 5; ++t) {
          Dequantize(type, table.matrix().row(rows[t]), D, want.data());
          const std::vector<TypeParam> rounded = Rounded<TypeParam>(want);
          ASSERT_EQ(std::memcmp(&y[t * D], rounded.data(), D * sizeof(TypeParam)), 0) << Name(type) << " " << D;
        }
      }
    }
  }
}

TYPED_TEST(RowKernels, GatherGivesTheWeightsOfFp8) {
  RandomNumbers random(9);
  for (const int D : {16, 144, 2080}) {
    std::vector<float> rounded;
    const DeviceCopy copy(random.Floats(3 * D, 0.1f), D, &rounded);
    GlobalArray<int32_t> ids(std::vector<int32_t>{2, 0});
    GlobalArray<TypeParam> y(2 * D);
    const Gather op{2, copy.matrix(), ids.data(), kTypeOf<TypeParam>, y.data()};
    ASSERT_TRUE(Check(op).ok()) << Check(op);
    ASSERT_EQ(Run(op, nullptr), cudaSuccess);
    const std::vector<float> got = AsFloats(y.values());
    EXPECT_TRUE(std::equal(got.begin(), got.begin() + D, rounded.begin() + 2 * D));
    EXPECT_TRUE(std::equal(got.begin() + D, got.end(), rounded.begin()));
  }
}

// All that there are, by scales from the least to the largest: some are subnormal in bfloat16 until they are
// multiplied.
TEST(GatherKernel, WidensEveryNumberOfFp8) {
  const int exponents[] = {-117, -60, -1, 7};
  std::vector<uint8_t> quants;
  std::vector<uint16_t> scales;
  for (const int exponent : exponents) {
    for (int byte = 0; byte < 256; ++byte) quants.push_back(static_cast<uint8_t>(byte % 128 == 127 ? 0 : byte));
    scales.insert(scales.end(), 2, static_cast<uint16_t>((127 + exponent) << 7));
  }
  GlobalArray<uint8_t> quant_array(quants);
  GlobalArray<uint16_t> scale_array(scales);
  GlobalArray<int32_t> ids(std::vector<int32_t>{0, 1, 2, 3});
  GlobalArray<float> y(quants.size());
  const Gather op{4, {kFp8, 4, 256, quant_array.data(), scale_array.data()}, ids.data(), DType::kF32, y.data()};
  ASSERT_TRUE(Check(op).ok()) << Check(op);
  ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
  const std::vector<float> got = y.values();
  for (size_t i = 0; i < got.size(); ++i) {
    const float want = std::ldexp(FloatFromE4M3(quants[i]), exponents[i / 256]);
    ASSERT_EQ(std::memcmp(&got[i], &want, sizeof want), 0) << i << ": " << got[i] << ", not " << want;
  }
}

TEST(GatherKernel, CheckNamesWhatIsWrong) {
  alignas(16) float y[8] = {}, table[8] = {};
  int32_t id = 0;
  Gather op{1, {DType::kF32, 1, 8, table}, &id, DType::kF32, y};
  EXPECT_TRUE(Check(op).ok());
  op.table.columns = 12;
  EXPECT_EQ(Check(op).message(), "table's columns must be a multiple of 8");
  op.table = {DType::kQ6_K, 1, 256, table};
  EXPECT_EQ(Check(op).message(), "table's type must be F32, BF16, FP8 or Q4_0");
  op.table = {DType::kF32, 1, 8, table + 1};
  EXPECT_EQ(Check(op).message(), "table must be set, at a multiple of 16 bytes");
}

// A step of six rows of two sequences, one of them padding, over blocks of which some belong to nobody.
TYPED_TEST(RowKernels, QkvHeadsNormsRotatesAndStores) {
  for (const auto& [heads, kv_heads, head_dim] : {std::array{4, 1, 64}, {3, 3, 32}, {5, 1, 128}, {32, 8, 64}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      RandomNumbers random(seed);
      const int T = 6, slots = heads + 2 * kv_heads, half = head_dim / 2, context = 70;
      const std::vector<TypeParam> qkv = Rounded<TypeParam>(random.Floats(size_t(T) * slots * head_dim, 3));
      const std::vector<float> q_weight = random.Floats(head_dim), k_weight = random.Floats(head_dim);
      std::vector<float> cos, sin;
      for (float angle : random.Floats(size_t(context) * half, 7))
        cos.push_back(std::cos(angle)), sin.push_back(std::sin(angle));
      const int positions[] = {63, 64, 0, 1, 31, -1};
      GlobalArray<TypeParam> input(qkv), q(size_t(T) * heads * head_dim);
      GlobalArray<float> qw(q_weight), kw(k_weight), cos_array(cos), sin_array(sin);
      GlobalArray<int32_t> position_array(std::vector<int32_t>(positions, positions + T));
      GlobalArray<int32_t> sequences(std::vector<int32_t>{1, 1, 0, 0, 0, 0}),
          blocks(std::vector<int32_t>{2, 0, 1, 6, 3, 5});
      const int64_t stride = KvArena::BlockNumbers(kv_heads, head_dim) + 8;
      GlobalArray<__nv_bfloat16> memory(7 * stride);
      const std::vector<__nv_bfloat16> before = memory.values();
      const QkvHeads op{T,
                        heads,
                        kv_heads,
                        head_dim,
                        kTypeOf<TypeParam>,
                        input.data(),
                        qw.data(),
                        kw.data(),
                        1e-5f,
                        cos_array.data(),
                        sin_array.data(),
                        {position_array.data(), sequences.data(), blocks.data(), 3},
                        {memory.data(), stride, kv_heads, head_dim},
                        q.data()};
      ASSERT_TRUE(Check(op).ok()) << Check(op);
      ASSERT_EQ(Run(op, nullptr), cudaSuccess);

      std::vector<bool> stored(memory.size());
      for (int t = 0; t < T - 1; ++t) {
        std::vector<float> want =
            AsFloats(std::vector<TypeParam>(&qkv[t * slots * head_dim], &qkv[t * slots * head_dim] + slots * head_dim));
        const float *c = &cos[positions[t] * half], *s = &sin[positions[t] * half];
        ref::Run(HeadNormRope{1, heads, head_dim, q_weight.data(), 1e-5f, c, s, want.data()});
        ref::Run(HeadNormRope{1, kv_heads, head_dim, k_weight.data(), 1e-5f, c, s, &want[heads * head_dim]});
        // Two products of at most sqrt(head_dim) each: eight roundings of the scale, four of each product, one sum.
        const double bound = 2 * std::sqrt(head_dim) * 14 * 0x1p-24;
        for (int i = 0; i < heads * head_dim; ++i)
          ASSERT_NEAR(ToFloat(q[t * heads * head_dim + i]), want[i], bound + kRounding<TypeParam> * std::abs(want[i]));
        for (int i = 0; i < 2 * kv_heads * head_dim; ++i) {
          const int block = blocks[sequences[t] * 3 + positions[t] / 32], head = i / head_dim % kv_heads;
          const int64_t row = (2 * head + i / (kv_heads * head_dim)) * 32 + positions[t] % 32;
          const size_t at = block * stride + row * head_dim + i % head_dim;
          const float value = want[heads * head_dim + i];
          ASSERT_NEAR(ToFloat(memory[at]), value, bound + 0x1p-8 * std::abs(value)) << t << " " << i;
          stored[at] = true;
        }
      }
      for (size_t i = 0; i < memory.size(); ++i)
        ASSERT_TRUE(stored[i] || std::memcmp(&memory[i], &before[i], 2) == 0) << "wrote where no row belongs";
    }
  }
}

TYPED_TEST(RowKernels, SwiGluAgreesWithTheReference) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(seed);
    for (const int F : {8, 96, 2056}) {
      std::vector<float> values = random.Floats(size_t{3} * 2 * F, 20);
      values[0] = 1000, values[1] = -1000, values[2] = 0;
      GlobalArray<TypeParam> gate_up(Rounded<TypeParam>(values)), y(size_t{3} * F);
      const SwiGlu op{3, F, kTypeOf<TypeParam>, gate_up.data(), y.data()};
      ASSERT_TRUE(Check(op).ok());
      ASSERT_EQ(Run(op, nullptr), cudaSuccess);
      const std::vector<float> in = AsFloats(gate_up.values());
      std::vector<float> want(F);
      for (int t = 0; t < 3; ++t) {
        ref::Run(braid::SwiGlu{F, &in[t * 2 * F], &in[t * 2 * F + F], want.data()});
        for (int i = 0; i < F; ++i)
          ASSERT_NEAR(ToFloat(y[t * F + i]), want[i], (8 * 0x1p-24 + kRounding<TypeParam>)*std::abs(want[i]) + 1e-37);
      }
    }
  }
}

TYPED_TEST(RowKernels, CombineSumsInRoutingOrder) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(seed);
    for (const auto& [D, K] : {std::array{8, 1}, {264, 4}, {2056, 3}}) {
      const int T = 5, R = 9;
      GlobalArray<TypeParam> rows(Rounded<TypeParam>(random.Floats(size_t(R) * D)));
      GlobalArray<float> weights(random.Floats(size_t(T) * K)), y(size_t(T) * D);
      std::vector<int32_t> row_of(size_t(T) * K);
      for (int32_t& row : row_of) row = random.Below(R + 1) - 1;
      GlobalArray<int32_t> row_array(row_of);
      const Combine op{T, D, K, kTypeOf<TypeParam>, rows.data(), row_array.data(), weights.data(), y.data()};
      ASSERT_TRUE(Check(op).ok());
      ASSERT_EQ(Run(op, nullptr), cudaSuccess);
      for (int i = 0; i < T * D; ++i) {
        float want = 0;
        for (int k = 0; k < K; ++k) {
          const int row = row_of[i / D * K + k];
          if (row >= 0) want += weights[i / D * K + k] * ToFloat(rows[row * D + i % D]);
        }
        ASSERT_EQ(y[i], want) << i;
      }
    }
  }
}

}  // namespace
}  // namespace braid::gpu
