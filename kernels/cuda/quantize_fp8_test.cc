#include "kernels/cuda/quantize_fp8.h"

#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/half.h"
#include "kernels/random_weights.h"

namespace braid::gpu {
namespace {

bool IsNan(int byte) { return (byte & 0x7F) == 0x7F; }

float Exact(int byte) {
  const __half_raw half = __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(byte), __NV_E4M3);
  return FloatFromHalf(half.x);
}

TEST(E4M3, IsWidenedAsByTheHeadersOfCuda) {
  for (int byte = 0; byte < 256; ++byte) {
    if (IsNan(byte)) continue;
    const float got = FloatFromE4M3(static_cast<uint8_t>(byte)), want = Exact(byte);
    EXPECT_EQ(std::memcmp(&got, &want, sizeof got), 0) << byte;
  }
}

TEST(E4M3, IsRoundedAsByTheHeadersOfCuda) {
  std::vector<float> values;
  for (int byte = 0; byte < 128; ++byte) {
    if (IsNan(byte)) continue;
    const float here = Exact(byte), middle = IsNan(byte + 1) ? here : (here + Exact(byte + 1)) / 2;
    for (float value : {here, middle})
      values.insert(values.end(), {value, std::nextafter(value, 0.0f), std::nextafter(value, kE4M3Max)});
  }
  RandomNumbers random(1);
  for (int i = 0; i < 20000; ++i) values.push_back(std::ldexp(random.Float(), random.Below(24) - 15));
  values.push_back(std::numeric_limits<float>::denorm_min());
  for (float magnitude : values) {
    for (float value : {magnitude, -magnitude})
      EXPECT_EQ(E4M3FromFloat(value), __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3)) << value;
  }
}

// A weight is off by a sixteenth of itself at most, or by half of the block's least step: the scale's 2^-9.
TEST(QuantizeFp8, RoundsEachWeightOfABlockToItsNearest) {
  RandomNumbers random(2);
  for (const int columns : {16, 128, 144, 400}) {
    std::vector<float> row = random.Floats(columns, 0.05f);
    for (float& weight : row) weight *= std::ldexp(1.0f, -random.Below(20));
    std::vector<uint8_t> quants(columns);
    std::vector<uint16_t> scales(Fp8Blocks(columns));
    ASSERT_TRUE(QuantizeFp8(row.data(), columns, quants.data(), scales.data()).ok());
    for (int k = 0; k < columns; ++k) {
      const double scale = FloatFromBFloat16(scales[k / kFp8Block]);
      const double weight = row[k], stored = FloatFromE4M3(quants[k]) * scale;
      EXPECT_LE(std::abs(stored - weight), std::max(std::abs(weight) / 16, scale * 0x1p-10)) << k;
      const float as_float = static_cast<float>(stored);
      EXPECT_EQ(FloatFromBFloat16(BFloat16FromFloat(as_float)), as_float) << "bfloat16 does not hold it";
      for (const double other : {scale / 2, scale * 2}) {
        const int begin = k / kFp8Block * kFp8Block, end = std::min(columns, begin + kFp8Block);
        double max = 0;
        for (int i = begin; i < end; ++i) max = std::max(max, std::abs(double{row[i]}));
        EXPECT_EQ(max <= kE4M3Max * other, other > scale) << "the least scale that holds the block";
      }
    }
  }
}

TEST(QuantizeFp8, HoldsTheLargestTheLeastAndNothing) {
  const auto quantized = [](float weight) {
    uint8_t quants[2];
    uint16_t scale;
    const float row[2] = {weight, -weight};
    EXPECT_TRUE(QuantizeFp8(row, 2, quants, &scale).ok()) << weight;
    EXPECT_EQ(FloatFromE4M3(quants[1]), -FloatFromE4M3(quants[0]));
    return FloatFromE4M3(quants[0]) * FloatFromBFloat16(scale);
  };
  EXPECT_EQ(quantized(0), 0);
  EXPECT_EQ(quantized(57344), 57344);
  EXPECT_EQ(quantized(448), 448);
  EXPECT_EQ(quantized(448.25f), 448);
  EXPECT_EQ(quantized(0x1p-126f), 0x1p-126f);
  EXPECT_EQ(quantized(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(QuantizeFp8, SaysWhatItCannotHold) {
  uint8_t quants[2];
  uint16_t scale;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const float row[2] = {1, bad};
    EXPECT_EQ(QuantizeFp8(row, 2, quants, &scale).message(), "a weight is not finite");
  }
  const float row[2] = {1, -60000};
  EXPECT_EQ(QuantizeFp8(row, 2, quants, &scale).message(),
            "a weight of 60000.000000 is too large for FP8, whose limit is 57344");
}

}  // namespace
}  // namespace braid::gpu
