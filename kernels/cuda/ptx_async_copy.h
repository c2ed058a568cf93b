#pragma once

#include "kernels/cuda/device.h"

// cp.async (sm_80): copies from global to shared memory that go on behind the thread's back. A thread's copies up to a
// commit are a group; after CopyAsyncWait<n>() all but its n newest groups have landed, for itself: others need a
// barrier too.

namespace braid::gpu {

// kBytes is 4, 8 or 16, both addresses multiples of it. Where not `valid`, zeros are written and nothing is read.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* shared, const void* global, bool valid = true,
                                          internal::Here at = internal::Here()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef BRAID_CUDA_EMULATOR
  simt::AsyncCopy(shared, global, kBytes, valid ? kBytes : 0, at);
#else
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes_read = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {  // past L1: nobody else on this SM wants it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes_read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(bytes_read)
                 : "memory");
  }
#endif
}

__device__ __forceinline__ void CopyAsyncCommit() {
#ifdef BRAID_CUDA_EMULATOR
  simt::internal::AsyncCommit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kGroupsLeft>
__device__ __forceinline__ void CopyAsyncWait() {
#ifdef BRAID_CUDA_EMULATOR
  simt::AsyncWait(kGroupsLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

}  // namespace braid::gpu
