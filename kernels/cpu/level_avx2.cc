#include "kernels/cpu/levels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define BRAID_LEVEL avx2
#define BRAID_HAS_VNNI 0
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

bool Supported() { return HasAvx2(); }

}  // namespace

constinit const CpuLevel kAvx2Level = avx2::Level("avx2", Supported);

}  // namespace braid

#else

namespace braid {

constinit const CpuLevel kAvx2Level{"avx2", NeverSupported};

}  // namespace braid

#endif
