#include "kernels/cpu/levels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

#define BRAID_LEVEL avx2vnni
#define BRAID_HAS_VNNI 1
#define BRAID_HAS_AVX512 0
#include "kernels/cpu/vec16_avx2.h"
#include "kernels/cpu/vec_avx2.h"
//
#include "kernels/cpu/level-inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace braid {
namespace {

bool Supported() {
  unsigned a, b, c, d;
  return HasAvx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

}  // namespace

constinit const CpuLevel kAvx2VnniLevel = avx2vnni::Level("avx2vnni", Supported);

}  // namespace braid

#else

namespace braid {

constinit const CpuLevel kAvx2VnniLevel{"avx2vnni", NeverSupported};

}  // namespace braid

#endif
