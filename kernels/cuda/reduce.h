#pragma once

#include "kernels/cuda/device.h"

// Sums and maxima in one fixed order. Every thread gets the result.

namespace braid::gpu {

// Over the 32 lanes. REQUIRES: all lanes are here.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// Over the block's kThreads. `scratch` is shared, of kThreads / 32; nobody else may use it from the call to the
// block's next barrier.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float value, float* scratch) {
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = scratch[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += scratch[warp];
  return sum;
}

}  // namespace braid::gpu
