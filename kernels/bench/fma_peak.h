#pragma once

#include "kernels/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// For benchmarks: what one thread's fused multiply-adds of float32 reach in registers alone, with the widest vectors of
// this machine.

namespace braid {

inline constexpr int kFmaRounds = 1 << 20;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) inline void FmaRounds512() {
  const __m512 x = _mm512_set1_ps(0.5f);
  __m512 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x;
  for (int i = 0; i < kFmaRounds; ++i) {
    a = _mm512_fmadd_ps(a, x, x), b = _mm512_fmadd_ps(b, x, x), c = _mm512_fmadd_ps(c, x, x);
    d = _mm512_fmadd_ps(d, x, x), e = _mm512_fmadd_ps(e, x, x), f = _mm512_fmadd_ps(f, x, x);
    g = _mm512_fmadd_ps(g, x, x), h = _mm512_fmadd_ps(h, x, x);
    asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h));
  }
}
__attribute__((target("avx2,fma"))) inline void FmaRounds256() {
  const __m256 x = _mm256_set1_ps(0.5f);
  __m256 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x;
  for (int i = 0; i < kFmaRounds; ++i) {
    a = _mm256_fmadd_ps(a, x, x), b = _mm256_fmadd_ps(b, x, x), c = _mm256_fmadd_ps(c, x, x);
    d = _mm256_fmadd_ps(d, x, x), e = _mm256_fmadd_ps(e, x, x), f = _mm256_fmadd_ps(f, x, x);
    g = _mm256_fmadd_ps(g, x, x), h = _mm256_fmadd_ps(h, x, x);
    asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h));
  }
}
#endif

// Runs some and says how many floating-point operations that were; 0 where this file does not know the machine.
inline double RunFmas(ThreadPool& pool) {
  [[maybe_unused]] const auto run = [&](void (*rounds)(), double flops) {
    pool.ParallelFor(pool.threads(), 1, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) rounds();
    });
    return flops * kFmaRounds * pool.threads();
  };
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return run(FmaRounds512, 2 * 16 * 8);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return run(FmaRounds256, 2 * 8 * 8);
#endif
  return 0;
}

}  // namespace braid
