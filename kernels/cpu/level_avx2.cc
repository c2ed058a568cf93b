#include "kernels/cpu/levels.h"

#if defined(__x86_64__)

// Everything that others share is included before the target changes, so that no copy of a common inline function that
// needs these instructions can be chosen by the linker for a machine without them.
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/exp.h"
#include "kernels/half.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define BRAID_LEVEL avx2
#define BRAID_HAS_VNNI 0
#define BRAID_HAS_AVX512 0
// Before a loop over registers: must be gone before registers are assigned.
#if defined(__clang__)
#define BRAID_UNROLL _Pragma("unroll")
#else
#define BRAID_UNROLL _Pragma("GCC unroll 16")
#endif
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
