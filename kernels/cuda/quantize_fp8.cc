#include "kernels/cuda/quantize_fp8.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/status.h"

namespace braid::gpu {
namespace {

// Of scales. Products of weights and scales are normal numbers of bfloat16, and so is scale * 2^120, by which kernels
// multiply.
constexpr int kExponentMin = -117, kExponentMax = 7;

// The least e with max <= 448 * 2^e.
int ScaleExponent(float max) {
  int exponent;
  const float fraction = std::frexp(max, &exponent);  // max = fraction * 2^exponent, 448 = 0.875 * 2^9
  return std::max(kExponentMin, exponent - 9 + (fraction > kE4M3Max / 512));
}

}  // namespace

uint8_t E4M3FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 24 & 0x80u;
  const float magnitude = std::abs(value);
  // Subnormals and zero are multiples of 2^-9: a number added whose last bit is that much rounds to one, and has the
  // multiple in its last bits.
  const uint32_t low = std::bit_cast<uint32_t>(magnitude + 0x1p14f) & 0xFu;
  const uint32_t rounded = (bits & 0x7FFFFFFFu) + 0x7FFFFu + (bits >> 20 & 1u);
  const uint32_t normal = (rounded >> 20) - (120u << 3);
  return static_cast<uint8_t>(sign | (magnitude < 0x1p-6f ? low : normal));
}

absl::Status QuantizeFp8(const float* row, int columns, uint8_t* quants, uint16_t* scales) {
  for (int begin = 0; begin < columns; begin += kFp8Block) {
    const int end = std::min(columns, begin + kFp8Block);
    float max = 0;
    bool finite = true;
    for (int k = begin; k < end; ++k) {
      max = std::max(max, std::abs(row[k]));
      finite = finite && std::isfinite(row[k]);
    }
    if (!finite) return InvalidArgument("a weight is not finite");
    const int exponent = ScaleExponent(max);
    if (exponent > kExponentMax)
      return InvalidArgument("a weight of " + std::to_string(max) + " is too large for FP8, whose limit is 57344");
    const float inverse = std::ldexp(1.0f, -exponent);
    for (int k = begin; k < end; ++k) quants[k] = E4M3FromFloat(row[k] * inverse);
    scales[begin / kFp8Block] = static_cast<uint16_t>((127 + exponent) << 7);
  }
  return absl::OkStatus();
}

}  // namespace braid::gpu
