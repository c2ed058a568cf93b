#include "kernels/cpu/levels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
// GCC 12's own header makes "undefined" vectors by reading them before they are set.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

#define BRAID_LEVEL avx512
#define BRAID_HAS_VNNI 1
#define BRAID_HAS_AVX512 1
#include "kernels/cpu/vec16_avx512.h"
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
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

constinit const CpuLevel kAvx512Level = avx512::Level("avx512", Supported);

}  // namespace braid

#else

namespace braid {

constinit const CpuLevel kAvx512Level{"avx512", NeverSupported};

}  // namespace braid

#endif
