#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace braid {

// e^x within 2 ulp for x in [-87.3, 88.3], 0 below, infinity above, NaN for NaN. Only IEEE multiplications and
// additions, no fused ones and no table: the same bits wherever and however the compiler vectorises it.
inline float Exp(float x) {
  constexpr float kLowest = -87.3f, kHighest = 88.3f;
  const float clamped = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first exact times n
  float p = 1.9875691500e-4f;  // the minimax polynomial of Cephes' expf on [-ln2 / 2, ln2 / 2]
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r * r + r) + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - 0x4B400000u + 127u) << 23;
  const float result = p * std::bit_cast<float>(exponent);
  return x < kLowest ? 0.0f : (x > kHighest ? std::numeric_limits<float>::infinity() : result);
}

// 1 / (1 + e^-x)
inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace braid
