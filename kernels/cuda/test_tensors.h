#pragma once

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/dtype.h"
#include "kernels/half.h"
#include "tests/cuda_emulator/global_array.h"

// Activations of either type for tests of kernels: made from floats, and read as the floats that they stand for.

namespace braid::gpu {

template <typename T>
inline constexpr DType kTypeOf = DType::kF32;
template <>
inline constexpr DType kTypeOf<__nv_bfloat16> = DType::kBF16;

// What rounding to T may add to a result, as a share of it.
template <typename T>
inline constexpr double kRounding = 0;
template <>
inline constexpr double kRounding<__nv_bfloat16> = 0x1p-8;

inline float ToFloat(float value) { return value; }
inline float ToFloat(__nv_bfloat16 value) {
  uint16_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return FloatFromBFloat16(bits);
}
inline void Set(float value, float* to) { *to = value; }
inline void Set(float value, __nv_bfloat16* to) {
  const uint16_t bits = BFloat16FromFloat(value);
  std::memcpy(static_cast<void*>(to), &bits, sizeof bits);
}

template <typename T>
std::vector<T> Rounded(const std::vector<float>& values) {
  std::vector<T> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) Set(values[i], &rounded[i]);
  return rounded;
}
template <typename T>
std::vector<float> AsFloats(const std::vector<T>& values) {
  std::vector<float> floats;
  for (T value : values) floats.push_back(ToFloat(value));
  return floats;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace braid::gpu
