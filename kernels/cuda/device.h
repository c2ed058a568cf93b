#pragma once

// What kernels are written against: the one header (with ptx_*.h) that differs between nvcc and the emulator, which
// runs the same .cu files on the CPU in tests (tests/cuda_emulator). Only .cu files and headers of theirs include it.
//
// The rules that make a kernel run, and be checked, in both:
//   * A .cu file has kernels and the functions that launch them, all through Launch(); it calls nothing else of the
//     CUDA runtime. Hosts include the .h beside it, which is plain C++ with a cudaStream_t.
//   * Arguments go by value and are trivially copyable. blockDim is a multiple of 32 and a template or launch
//     parameter, as are tiles and pages: tests run small ones.
//   * Shared memory is SHARED_ARRAY or DynShared, never __shared__ itself.
//   * Barriers stand in uniform control flow, one line each, and no thread returns before one. Warp intrinsics are the
//     *_sync ones with a mask that names exactly the lanes that get there. No lane relies on lock-step: __syncwarp()
//     between one lane's write and another's read. A shuffle orders no memory.
//   * Blocks of a launch do not wait for each other unless that is the kernel's point, and then by
//     ::cuda::atomic_ref with its orders written out. Every spinning loop calls __nanosleep.
//   * Sums have one order, whatever the batch: no float atomics on results. Atomics in shared memory are of 32 bits:
//     it has no others, and one of 64 is a loop there.
//   * Vectors of memory go through LoadVec and StoreVec. Offsets that may pass 2^31 are int64_t.
//   * PTX only in ptx_*.h, one wrapper per instruction with a body for the emulator, and no __CUDA_ARCH__ elsewhere:
//     variants are template parameters, so that tests run them all.
//   * No cub, thrust, cooperative_groups, __device__ globals, recursion, function pointers or device malloc.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

// T name[n], n a constant, one for the block, at a multiple of 16 bytes. Its contents are undefined at first.
#define SHARED_ARRAY(T, name, n) __shared__ __align__(16) T name[n]
// First in a kernel that is declared __launch_bounds__(n): lets the emulator hold launches to it.
#define LAUNCH_BOUNDS(n) static_assert((n) % 32 == 0, "whole warps")

namespace braid::gpu {

// The shared memory whose size the launch gave, in pieces of DynSharedBytes each. All threads take the same pieces in
// the same order.
//   DynShared shared;
//   float* keys = shared.Take<float>(n);
class DynShared {
 public:
  __device__ __forceinline__ DynShared() {
    extern __shared__ __align__(128) unsigned char braid_dyn_shared[];
    next_ = braid_dyn_shared;
  }
  template <typename T>
  __device__ __forceinline__ T* Take(int n) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += (n * sizeof(T) + 15) / 16 * 16;
    return taken;
  }

 private:
  unsigned char* next_;
};

// Runs kernel(args...) on `stream`. REQUIRES: AllowSharedBytes was called if shared_bytes and the kernel's
// SHARED_ARRAYs are over 48 KB.
template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   const Arguments&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Parameters(args)...);
}

// The most that any launch of the kernel on this device has: before such launches, and never less than before. Other
// threads' launches, and graphs', are held to it too. With the kernel's SHARED_ARRAYs it must fit a block.
template <typename... Parameters>
cudaError_t AllowSharedBytes(void (*kernel)(Parameters...), size_t bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

namespace internal {
// The line of a call, for the emulator's messages. A GPU traps what is misaligned by itself.
struct Here {};
__device__ __forceinline__ void CheckAligned(const void*, size_t, Here) {}
}  // namespace internal

}  // namespace braid::gpu

#elif !defined(BRAID_CUDA_EMULATOR)
#error "device.h is for .cu files, compiled by nvcc or through tests/cuda_emulator/simt.h"
#endif

namespace braid::gpu {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// What DynShared::Take<T>(n) uses up.
template <typename T>
constexpr size_t DynSharedBytes(size_t n) {
  return (n * sizeof(T) + 15) / 16 * 16;
}

// N numbers that are loaded and stored at once. N * sizeof(T) is 2, 4, 8 or 16.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
  __host__ __device__ T& operator[](int i) { return v[i]; }
  __host__ __device__ const T& operator[](int i) const { return v[i]; }
};

namespace internal {
// What one load moves: the compiler would split a load of several 16-bit numbers.
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
}  // namespace internal

// p[0, N). REQUIRES: p lies at a multiple of N * sizeof(T).
template <int N, typename T>
__device__ __forceinline__ Vec<T, N> LoadVec(const T* p, internal::Here at = internal::Here()) {
  using Word = typename internal::Word<sizeof(T) * N>::type;
  internal::CheckAligned(p, sizeof(Word), at);
  const Word word = *reinterpret_cast<const Word*>(p);
  Vec<T, N> vec;
  memcpy(&vec, &word, sizeof word);
  return vec;
}

template <int N, typename T>
__device__ __forceinline__ void StoreVec(T* p, const Vec<T, N>& vec, internal::Here at = internal::Here()) {
  using Word = typename internal::Word<sizeof(T) * N>::type;
  internal::CheckAligned(p, sizeof(Word), at);
  Word word;
  memcpy(&word, &vec, sizeof word);
  *reinterpret_cast<Word*>(p) = word;
}

}  // namespace braid::gpu
