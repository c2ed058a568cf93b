#pragma once

// What a kernel names that nvcc would know: the rest of device.h, and CUDA's own variables and functions. Included by
// simt.h alone. Everything is inlined, so that a sanitizer's program has only the versions that were compiled for it.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <tuple>

#define SIMT_INLINE __attribute__((always_inline)) inline

#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_read_range(void* p, unsigned long bytes);
extern "C" void __tsan_write_range(void* p, unsigned long bytes);
#endif

// Set whenever a thread goes on.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

// One array for the block, whoever comes first: known by the address of a constant that each line and each instance of
// a template has one of.
#define SHARED_ARRAY(T, name, n)        \
  static constexpr char name##_key = 0; \
  T(&name)                              \
  [n] = *static_cast<T(*)[n]>(          \
      ::simt::internal::SharedArray(&name##_key, #name, sizeof(T) * (n), ::simt::Here(__FILE__, __LINE__)))
#define LAUNCH_BOUNDS(n) ::simt::internal::CheckLaunchBounds(n, ::simt::Here(__FILE__, __LINE__))

namespace braid::gpu {

class DynShared {
 public:
  template <typename T>
  SIMT_INLINE T* Take(int n, simt::Here at = simt::Here()) {
    return static_cast<T*>(simt::internal::DynamicSharedArray(taken_++, n * sizeof(T), at));
  }

 private:
  int taken_ = 0;
};

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, simt::StreamAt stream,
                   const Arguments&... args) {
  static_assert((std::is_trivially_copyable_v<std::remove_cv_t<Parameters>> && ...), "arguments are copied as bytes");
  static_assert((!std::is_reference_v<Parameters> && ...), "a GPU cannot follow a reference to the host");
  std::tuple<Parameters...> copies{args...};
  // What lies between members may look like a pointer.
  std::apply([](Parameters&... copy) { (__builtin_clear_padding(&copy), ...); }, copies);
  const auto arguments = std::apply(
      [](const Parameters&... copy) {
        return std::array<simt::Argument, sizeof...(Parameters)>{simt::Argument{&copy, sizeof copy}...};
      },
      copies);
  const simt::LaunchConfig config{reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream, arguments};
  return simt::Submit(config, (sizeof(Parameters) + ... + 0), [kernel, copies] { std::apply(kernel, copies); });
}

template <typename... Parameters>
cudaError_t AllowSharedBytes(void (*kernel)(Parameters...), size_t bytes) {
  simt::AllowSharedBytes(reinterpret_cast<const void*>(kernel), bytes);
  return cudaSuccess;
}

namespace internal {

using Here = simt::Here;

SIMT_INLINE void CheckAligned(const void* p, size_t bytes, Here at) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    simt::internal::Fail(simt::ErrorKind::kMisaligned, at, "a vector of %zu bytes at %p", bytes, p);
}

}  // namespace internal
}  // namespace braid::gpu

// ---- Barriers.

SIMT_INLINE void __syncthreads(simt::Here at = simt::Here()) {
  simt::internal::AtBarrier(simt::internal::Vote::kNone, false, at);
}
SIMT_INLINE int __syncthreads_count(int predicate, simt::Here at = simt::Here()) {
  return simt::internal::AtBarrier(simt::internal::Vote::kCount, predicate != 0, at);
}
SIMT_INLINE int __syncthreads_and(int predicate, simt::Here at = simt::Here()) {
  return simt::internal::AtBarrier(simt::internal::Vote::kAnd, predicate != 0, at);
}
SIMT_INLINE int __syncthreads_or(int predicate, simt::Here at = simt::Here()) {
  return simt::internal::AtBarrier(simt::internal::Vote::kOr, predicate != 0, at);
}

// ---- Warps. The operations themselves are in warp.cc.

namespace simt::internal {

struct Shuffled {
  uint64_t value;
  int from;  // lane
};
extern const WarpOperation kSyncWarp, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor;
struct Voted {
  bool predicate;
  uint32_t ballot;
};
extern const WarpOperation kBallot, kAny, kAll;
struct Matched {
  uint64_t value;
  uint32_t equal;
};
extern const WarpOperation kMatchAny;
// The value of a 32-bit reduction, before and after.
extern const WarpOperation kReduceAdd, kReduceMinUnsigned, kReduceMaxUnsigned, kReduceMinSigned, kReduceMaxSigned;
extern const WarpOperation kReduceAnd, kReduceOr, kReduceXor;

int ThisLane();

template <typename T>
SIMT_INLINE uint64_t Bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// `from` is in the segment of `width` lanes that this one is in, or else this one keeps its own value.
template <typename T>
SIMT_INLINE T Shuffle(const WarpOperation& operation, uint32_t mask, T value, int from, Here at) {
  Shuffled data{Bits(value), from};
  AtWarp(operation, mask, &data, at);
  std::memcpy(&value, &data.value, sizeof value);
  return value;
}

SIMT_INLINE uint32_t Reduce(const WarpOperation& operation, uint32_t mask, uint32_t value, Here at) {
  AtWarp(operation, mask, &value, at);
  return value;
}

SIMT_INLINE uint32_t Ballot(const WarpOperation& operation, uint32_t mask, bool predicate, Here at) {
  Voted data{predicate, 0};
  AtWarp(operation, mask, &data, at);
  return data.ballot;
}

}  // namespace simt::internal

SIMT_INLINE void __syncwarp(unsigned mask = 0xFFFFFFFFu, simt::Here at = simt::Here()) {
  simt::internal::AtWarp(simt::internal::kSyncWarp, mask, nullptr, at);
}
template <typename T>
SIMT_INLINE T __shfl_sync(unsigned mask, T value, int lane, int width = 32, simt::Here at = simt::Here()) {
  const int self = simt::internal::ThisLane();
  return simt::internal::Shuffle(simt::internal::kShuffle, mask, value, (self & -width) | (lane & (width - 1)), at);
}
template <typename T>
SIMT_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Here at = simt::Here()) {
  const int self = simt::internal::ThisLane(), from = self - static_cast<int>(delta);
  return simt::internal::Shuffle(simt::internal::kShuffleUp, mask, value, from < (self & -width) ? self : from, at);
}
template <typename T>
SIMT_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Here at = simt::Here()) {
  const int self = simt::internal::ThisLane(), from = self + static_cast<int>(delta);
  return simt::internal::Shuffle(simt::internal::kShuffleDown, mask, value, from > (self | (width - 1)) ? self : from,
                                 at);
}
// May read the lanes of lower segments, not of higher ones.
template <typename T>
SIMT_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, simt::Here at = simt::Here()) {
  const int self = simt::internal::ThisLane(), from = self ^ bits;
  return simt::internal::Shuffle(simt::internal::kShuffleXor, mask, value, from > (self | (width - 1)) ? self : from,
                                 at);
}
SIMT_INLINE unsigned __ballot_sync(unsigned mask, int predicate, simt::Here at = simt::Here()) {
  return simt::internal::Ballot(simt::internal::kBallot, mask, predicate != 0, at);
}
SIMT_INLINE int __any_sync(unsigned mask, int predicate, simt::Here at = simt::Here()) {
  return simt::internal::Ballot(simt::internal::kAny, mask, predicate != 0, at) != 0;
}
SIMT_INLINE int __all_sync(unsigned mask, int predicate, simt::Here at = simt::Here()) {
  return simt::internal::Ballot(simt::internal::kAll, mask, predicate != 0, at) == mask;
}
template <typename T>
SIMT_INLINE unsigned __match_any_sync(unsigned mask, T value, simt::Here at = simt::Here()) {
  simt::internal::Matched data{simt::internal::Bits(value), 0};
  simt::internal::AtWarp(simt::internal::kMatchAny, mask, &data, at);
  return data.equal;
}
SIMT_INLINE unsigned __reduce_add_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceAdd, mask, value, at);
}
SIMT_INLINE int __reduce_add_sync(unsigned mask, int value, simt::Here at = simt::Here()) {
  return static_cast<int>(simt::internal::Reduce(simt::internal::kReduceAdd, mask, value, at));
}
SIMT_INLINE unsigned __reduce_min_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceMinUnsigned, mask, value, at);
}
SIMT_INLINE int __reduce_min_sync(unsigned mask, int value, simt::Here at = simt::Here()) {
  return static_cast<int>(simt::internal::Reduce(simt::internal::kReduceMinSigned, mask, value, at));
}
SIMT_INLINE unsigned __reduce_max_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceMaxUnsigned, mask, value, at);
}
SIMT_INLINE int __reduce_max_sync(unsigned mask, int value, simt::Here at = simt::Here()) {
  return static_cast<int>(simt::internal::Reduce(simt::internal::kReduceMaxSigned, mask, value, at));
}
SIMT_INLINE unsigned __reduce_and_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceAnd, mask, value, at);
}
SIMT_INLINE unsigned __reduce_or_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceOr, mask, value, at);
}
SIMT_INLINE unsigned __reduce_xor_sync(unsigned mask, unsigned value, simt::Here at = simt::Here()) {
  return simt::internal::Reduce(simt::internal::kReduceXor, mask, value, at);
}

// ---- What ptx_*.h wraps.

namespace simt {
namespace internal {

struct MmaBf16Data {
  float* d;
  const uint32_t *a, *b;
};
struct MmaE4M3Data {
  float* d;
  const uint32_t *a, *b;
};
struct LoadMatricesData {
  uint16_t row[8];
  uint32_t registers[4];
};
extern const WarpOperation kMmaBf16, kMmaE4M3, kLoadMatrices, kLoadMatricesTransposed;

}  // namespace internal

SIMT_INLINE void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Here at) {
  internal::MmaBf16Data data{d, a, b};
  internal::AtWarp(internal::kMmaBf16, 0xFFFFFFFFu, &data, at);
}

SIMT_INLINE void MmaE4M3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Here at) {
  internal::NeedArchitecture(89, "mma.m16n8k32 of e4m3", at);
  internal::MmaE4M3Data data{d, a, b};
  internal::AtWarp(internal::kMmaE4M3, 0xFFFFFFFFu, &data, at);
}

template <bool kTransposed>
SIMT_INLINE void LoadMatrices(uint32_t (&registers)[4], const void* row, Here at) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) internal::Fail(ErrorKind::kMisaligned, at, "ldmatrix from %p", row);
  internal::LoadMatricesData data;
  const uint16_t* from = static_cast<const uint16_t*>(row);
  for (int i = 0; i < 8; ++i) data.row[i] = from[i];
  internal::AtWarp(kTransposed ? internal::kLoadMatricesTransposed : internal::kLoadMatrices, 0xFFFFFFFFu, &data, at);
  for (int i = 0; i < 4; ++i) registers[i] = data.registers[i];
}

// The hardware may read and write at any time from the copy to the wait: ThreadSanitizer is told of both ends.
SIMT_INLINE void AsyncCopy(void* shared, const void* global, int bytes, int bytes_read, Here at) {
  internal::AsyncCopy(shared, global, bytes, bytes_read, at);
#ifdef __SANITIZE_THREAD__
  __tsan_read_range(const_cast<void*>(global), bytes_read);
  __tsan_write_range(shared, bytes);
#endif
}
SIMT_INLINE void AsyncWait(int groups_left) {
  internal::AsyncWait(groups_left, [](void* to, int bytes) {
#ifdef __SANITIZE_THREAD__
    __tsan_write_range(to, bytes);
#endif
  });
}

}  // namespace simt

// ---- Memory. CUDA's atomics are relaxed and order nothing else.

SIMT_INLINE void __nanosleep(unsigned, simt::Here at = simt::Here()) { simt::internal::Sleep(at); }
// As strong as the C++ fence, and to ThreadSanitizer nothing: prefer ::cuda::atomic_ref with an order.
SIMT_INLINE void __threadfence() { simt::internal::MayYield(); }
SIMT_INLINE void __threadfence_block() { simt::internal::MayYield(); }
SIMT_INLINE void __threadfence_system() { simt::internal::MayYield(); }

template <typename T>
SIMT_INLINE T __ldg(const T* p) {
  return *p;
}
template <typename T>
SIMT_INLINE T __ldcs(const T* p) {
  return *p;
}
template <typename T>
SIMT_INLINE T __ldcg(const T* p) {
  return *p;
}
template <typename T>
SIMT_INLINE void __stcs(T* p, T value) {
  *p = value;
}
template <typename T>
SIMT_INLINE void __stcg(T* p, T value) {
  *p = value;
}

namespace simt::internal {

template <typename T, typename Function>
SIMT_INLINE T Update(T* p, Function function) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if (sizeof(T) == 8) NeedGlobal(p, sizeof(T));
  MayYield();
  std::atomic_ref<T> word(*p);
  T old = word.load(std::memory_order_relaxed);
  while (!word.compare_exchange_weak(old, function(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace simt::internal

template <typename T>
SIMT_INLINE T atomicAdd(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return old + value; });
}
template <typename T>
SIMT_INLINE T atomicSub(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return old - value; });
}
template <typename T>
SIMT_INLINE T atomicMin(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return std::min(old, value); });
}
template <typename T>
SIMT_INLINE T atomicMax(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return std::max(old, value); });
}
template <typename T>
SIMT_INLINE T atomicAnd(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return old & value; });
}
template <typename T>
SIMT_INLINE T atomicOr(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return old | value; });
}
template <typename T>
SIMT_INLINE T atomicXor(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T old) { return old ^ value; });
}
template <typename T>
SIMT_INLINE T atomicExch(T* p, std::type_identity_t<T> value) {
  return simt::internal::Update(p, [value](T) { return value; });
}
template <typename T>
SIMT_INLINE T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  simt::internal::MayYield();
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, value, std::memory_order_relaxed);
  return expected;  // what was there, either way
}

// ---- Numbers. The fast ones are exact here: tests allow for what they lose on a GPU.

SIMT_INLINE float rsqrtf(float x) { return 1 / std::sqrt(x); }
SIMT_INLINE float __frsqrt_rn(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }
SIMT_INLINE float __frcp_rn(float x) { return 1 / x; }
SIMT_INLINE float __fsqrt_rn(float x) { return std::sqrt(x); }
SIMT_INLINE float __expf(float x) { return std::exp(x); }
SIMT_INLINE float __exp10f(float x) { return std::pow(10.0f, x); }
SIMT_INLINE float __logf(float x) { return std::log(x); }
SIMT_INLINE float __log2f(float x) { return std::log2(x); }
SIMT_INLINE float __powf(float x, float y) { return std::pow(x, y); }
SIMT_INLINE float __sinf(float x) { return std::sin(x); }
SIMT_INLINE float __cosf(float x) { return std::cos(x); }
SIMT_INLINE float __fdividef(float x, float y) { return x / y; }
SIMT_INLINE float __fdiv_rn(float x, float y) { return x / y; }
SIMT_INLINE float __fadd_rn(float x, float y) { return x + y; }
SIMT_INLINE float __fsub_rn(float x, float y) { return x - y; }
SIMT_INLINE float __fmul_rn(float x, float y) { return x * y; }
SIMT_INLINE float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
SIMT_INLINE float __saturatef(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }

SIMT_INLINE float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
SIMT_INLINE float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
SIMT_INLINE int __float_as_int(float x) { return std::bit_cast<int>(x); }
SIMT_INLINE unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
SIMT_INLINE int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
SIMT_INLINE int __float2int_rz(float x) { return static_cast<int>(x); }
SIMT_INLINE int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
SIMT_INLINE float __int2float_rn(int x) { return static_cast<float>(x); }
SIMT_INLINE float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

SIMT_INLINE int __popc(unsigned x) { return std::popcount(x); }
SIMT_INLINE int __popcll(unsigned long long x) { return std::popcount(x); }
SIMT_INLINE int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
SIMT_INLINE int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
SIMT_INLINE unsigned __umulhi(unsigned x, unsigned y) { return static_cast<uint64_t>(x) * y >> 32; }
SIMT_INLINE unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
SIMT_INLINE int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}
// Byte i of the result is byte (selector >> 4 i) & 7 of y:x.
SIMT_INLINE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned permuted = 0;
  for (int i = 0; i < 4; ++i) permuted |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
  return permuted;
}

using std::max;
using std::min;
