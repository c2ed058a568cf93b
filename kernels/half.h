#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

// The two 16-bit float formats, widened exactly, and rounding to bfloat16.

namespace braid {

// IEEE binary16. The exponent is moved by a multiplication, which also normalises subnormals.
inline float FloatFromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFFu) << 13;
  if (magnitude >= 0x0F800000u) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x007FFFFFu));
  constexpr float kTwoTo112 = 5.192296858534828e33f;  // moves the exponent's bias from 15 to 127
  return std::bit_cast<float>(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * kTwoTo112) | sign);
}

// The upper half of a binary32.
inline float FloatFromBFloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
// To nearest, ties to even; a NaN stays one.
inline uint16_t BFloat16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// Little endian, at any address.
inline uint16_t LoadU16(const void* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace braid
