#pragma once

#include "kernels/cuda/device.h"

// %globaltimer: one clock for a whole GPU. It ticks once in 32 ns on some and once in a microsecond on others, so it is
// for sums of many times.

namespace braid::gpu {

__device__ __forceinline__ unsigned long long ClockNs() {
#ifdef BRAID_CUDA_EMULATOR
  return simt::ClockNs();
#else
  unsigned long long ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns)::"memory");
  return ns;
#endif
}

}  // namespace braid::gpu
