#pragma once

#include "kernels/cuda/device.h"

// Numbers as kernels hold them: eight at a time in registers as floats, in memory as float or bfloat16.
//
// Kernels are compiled without contraction: a fused multiply-add is one where fmaf says so. What a compiler would fuse
// could differ between two instances of a template, and so a row's bits with the batch it shares.

namespace braid::gpu {

// Threads, in whole warps, for `work` items of which each thread takes one at a time.
inline int WarpsOf(int work, int threads_max) {
  const int threads = (work + 31) / 32 * 32;
  return threads < threads_max ? threads : threads_max;
}

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T>
__device__ T FromFloat(float value);
template <>
__device__ inline float FromFloat(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 FromFloat(float value) {
  return __float2bfloat16_rn(value);
}

template <int N>
struct Floats {
  float v[N];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ const float& operator[](int i) const { return v[i]; }
};

// N numbers in loads of at most 16 bytes. REQUIRES: p is aligned to the smaller of 16 bytes and all of them.
template <int N, typename T>
__device__ inline Floats<N> LoadFloats(const T* p) {
  constexpr int kOnce = N * sizeof(T) <= 16 ? N : static_cast<int>(16 / sizeof(T));
  Floats<N> values;
#pragma unroll
  for (int i = 0; i < N; i += kOnce) {
    const auto part = LoadVec<kOnce>(p + i);
#pragma unroll
    for (int j = 0; j < kOnce; ++j) values[i + j] = ToFloat(part[j]);
  }
  return values;
}
template <int N, typename T>
__device__ inline void StoreFloats(T* p, const Floats<N>& values) {
  constexpr int kOnce = N * sizeof(T) <= 16 ? N : static_cast<int>(16 / sizeof(T));
#pragma unroll
  for (int i = 0; i < N; i += kOnce) {
    Vec<T, kOnce> part;
#pragma unroll
    for (int j = 0; j < kOnce; ++j) part[j] = FromFloat<T>(values[i + j]);
    StoreVec<kOnce>(p + i, part);
  }
}

__device__ inline float Silu(float z) { return z / (1 + expf(-z)); }

}  // namespace braid::gpu
