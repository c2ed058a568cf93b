#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/matrix.h"
#include "kernels/cuda/numbers.h"

// Stored weights, a few at a time.

namespace braid::gpu {

__device__ inline float HalfToFloat(uint16_t bits) {
  __half_raw raw;
  raw.x = bits;
  return __half2float(raw);
}

// Values [first, first + 8) of a Q4_0 block, `first` a multiple of 8.
__device__ inline Floats<8> DequantizeEight(const uint8_t* quants, uint16_t scale, int first) {
  const Vec<uint8_t, 8> bytes = LoadVec<8>(quants + first % 16);
  const int shift = first < 16 ? 0 : 4;
  const float d = HalfToFloat(scale);
  Floats<8> values;
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = d * static_cast<float>((bytes[i] >> shift & 15) - 8);
  return values;
}

// Columns [column, column + 8) of a row. REQUIRES: column is a multiple of 8.
template <DType kType>
__device__ inline Floats<8> LoadEight(const Matrix& matrix, int64_t row, int column) {
  if constexpr (kType == DType::kQ4_0) {
    const int64_t block = (row * matrix.columns + column) / 32;
    return DequantizeEight(static_cast<const uint8_t*>(matrix.data) + block * 16, matrix.scales[block], column % 32);
  } else if constexpr (kType == DType::kBF16) {
    return LoadFloats<8>(static_cast<const __nv_bfloat16*>(matrix.data) + row * matrix.columns + column);
  } else {
    return LoadFloats<8>(static_cast<const float*>(matrix.data) + row * matrix.columns + column);
  }
}

// q - 8 for the lower nibbles of bytes 0 and 1, as two bfloat16 numbers: 128 + q is one whose last bits are q.
__device__ inline uint32_t Bf16PairOfQuants(uint32_t bytes) {
  const uint32_t biased = (bytes & 0xFu) | (bytes & 0xF00u) << 8 | 0x43004300u;
  __nv_bfloat162 pair;
  memcpy(static_cast<void*>(&pair), &biased, sizeof pair);
  pair = __hsub2(pair, __float2bfloat162_rn(136));
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

}  // namespace braid::gpu
