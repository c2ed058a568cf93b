#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "kernels/cuda/matrix.h"
#include "kernels/cuda/numbers.h"

// Stored weights, a few at a time.

namespace braid::gpu {

// Matrix's types as kernels are made for them: nvcc takes only what an enumeration names for a template's argument.
enum class Stored { kF32, kBF16, kQ4_0, kFp8 };

// run(stored) with stored as a constant.
template <typename F>
cudaError_t WithStored(DType type, const F& run) {
  if (type == kFp8) return run(std::integral_constant<Stored, Stored::kFp8>());
  if (type == DType::kQ4_0) return run(std::integral_constant<Stored, Stored::kQ4_0>());
  if (type == DType::kBF16) return run(std::integral_constant<Stored, Stored::kBF16>());
  return run(std::integral_constant<Stored, Stored::kF32>());
}

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

// e4m3 bytes 0 and 1 as two bfloat16 numbers, times 2^-120: exponent and fraction move to their places, and that is
// between the two exponents' biases. Subnormals stay subnormal.
__device__ inline uint32_t Bf16PairOfE4M3(uint32_t bytes) {
  const uint32_t apart = (bytes & 0xFFu) << 8 | (bytes & 0xFF00u) << 16;
  return (apart & 0x80008000u) | (apart & 0x7F007F00u) >> 4;
}

// The scale of an FP8 matrix's row at a column, times 2^120, for numbers like those; twice.
__device__ inline uint32_t Fp8ScalePair(const Matrix& matrix, int64_t row, int column) {
  const int64_t blocks = (matrix.columns + kFp8Block - 1) / kFp8Block;
  const uint32_t raised = matrix.scales[row * blocks + column / kFp8Block] + (120u << 7);
  return raised | raised << 16;
}

// Two products in bfloat16.
__device__ inline uint32_t MultiplyBf16Pairs(uint32_t a, uint32_t b) {
  __nv_bfloat162 x, y;
  memcpy(static_cast<void*>(&x), &a, sizeof x);
  memcpy(static_cast<void*>(&y), &b, sizeof y);
  x = __hmul2(x, y);
  uint32_t product;
  memcpy(&product, &x, sizeof product);
  return product;
}

// Columns [column, column + 8) of a row. REQUIRES: column is a multiple of 8.
template <Stored kStored>
__device__ inline Floats<8> LoadEight(const Matrix& matrix, int64_t row, int column) {
  if constexpr (kStored == Stored::kQ4_0) {
    const int64_t block = (row * matrix.columns + column) / 32;
    return DequantizeEight(static_cast<const uint8_t*>(matrix.data) + block * 16, matrix.scales[block], column % 32);
  } else if constexpr (kStored == Stored::kFp8) {
    const uint8_t* quants = static_cast<const uint8_t*>(matrix.data) + row * matrix.columns + column;
    const Vec<uint32_t, 2> bytes = LoadVec<2>(reinterpret_cast<const uint32_t*>(quants));
    const uint32_t scale = Fp8ScalePair(matrix, row, column);
    Floats<8> values;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t pair = MultiplyBf16Pairs(Bf16PairOfE4M3(bytes[i / 4] >> i % 4 * 8), scale);
      values[i] = __uint_as_float(pair << 16), values[i + 1] = __uint_as_float(pair & 0xFFFF0000u);
    }
    return values;
  } else if constexpr (kStored == Stored::kBF16) {
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
