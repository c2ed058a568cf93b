#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/reduce.h"

namespace braid::gpu {

// To nearest, ties to even. REQUIRES: |value| <= 448. The same as E4M3FromFloat of quantize_fp8.h.
__device__ inline uint32_t E4M3BitsOf(float value) {
  const uint32_t bits = __float_as_uint(value), sign = bits >> 24 & 0x80u;
  const float magnitude = fabsf(value);
  const uint32_t low = __float_as_uint(magnitude + 0x1p14f) & 0xFu;
  const uint32_t normal = (((bits & 0x7FFFFFFFu) + 0x7FFFFu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
  return sign | (magnitude < 0x1p-6f ? low : normal);
}

// A warp's 128 neighbours, four to a lane, as an FP8 block; the first `columns` of them are there, a multiple of four.
// REQUIRES: all lanes are here.
__device__ inline void StoreFp8Block(const Floats<4>& values, int columns, uint8_t* to, uint16_t* scale, int lane) {
  constexpr int kExponentMin = -117;  // of scales, as QuantizeFp8's
  const bool mine = lane * 4 < columns;
  float max = 0;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!mine) continue;
    max = fmaxf(max, fabsf(values[i]));
    finite = finite && fabsf(values[i]) < INFINITY;
  }
  finite = __all_sync(kAllLanes, finite) != 0;
  const uint32_t bits = __float_as_uint(WarpMax(max));
  // The least with max <= 448 * 2^exponent: 448 is 1.75 * 2^8.
  const int exponent = ::max(kExponentMin, static_cast<int>(bits >> 23) - 127 - 8 + ((bits & 0x7FFFFFu) > 0x600000u));
  const float inverse = __uint_as_float(static_cast<uint32_t>(127 - exponent) << 23);
  if (lane == 0) *scale = finite ? static_cast<uint16_t>((127 + exponent) << 7) : 0x7FC0;
  if (!mine) return;
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) word |= (finite ? E4M3BitsOf(values[i] * inverse) : 0u) << 8 * i;
  *reinterpret_cast<uint32_t*>(to + lane * 4) = word;
}

}  // namespace braid::gpu
