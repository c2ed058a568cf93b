#pragma once

#include <bit>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/matrix.h"

// Weights as FP8, made on the host at load.
//
// A block's scale is the least power of two at which its largest weight is within e4m3's 448. Any other scale would
// cost a weight as much: e4m3 is a floating point format, so its rounding takes up to 1/16 of a weight wherever in the
// format's range that lies, and 2^15 of range hold all that matters of a block. A power of two makes the rounded weight
// times its scale a number that bfloat16 holds: kernels multiply exactly what is stored, with the bits that a bfloat16
// matrix of the same weights gives, and so does a CPU. A block is a part of a row so that experts' matrices may have
// any number of rows and in any order; 128 columns keep the scales under 2 % of the bytes.

namespace braid::gpu {

inline constexpr float kE4M3Max = 448;

// Exact. A NaN's byte gives 480: there are none in a matrix.
inline float FloatFromE4M3(uint8_t byte) {
  // Exponent and fraction, moved to their places; 2^120 is between the two exponents' biases, also for subnormals.
  const uint32_t bits = (byte & 0x80u) << 24 | (byte & 0x7Fu) << 20;
  return std::bit_cast<float>(bits) * 0x1p120f;
}

// To nearest, ties to even. REQUIRES: |value| <= kE4M3Max.
uint8_t E4M3FromFloat(float value);

// Row by row: `quants` gets `columns` bytes, `scales` Fp8Blocks(columns). kInvalidArgument if a weight is not finite or
// beyond 448 * 128, where bfloat16 would not hold what kernels make on the way.
absl::Status QuantizeFp8(const float* row, int columns, uint8_t* quants, uint16_t* scales);

}  // namespace braid::gpu
