#include "kernels/cpu/level.h"

#if defined(__x86_64__)

// Everything that others share is included before the target changes, so that no AVX2 copy of a common inline function
// can be chosen by the linker for a machine without AVX2.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/exp.h"
#include "kernels/half.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "kernels/cpu/vec_avx2.h"

#define BRAID_LEVEL avx2
// Before a loop over registers: must be gone before registers are assigned.
#if defined(__clang__)
#define BRAID_UNROLL _Pragma("unroll")
#else
#define BRAID_UNROLL _Pragma("GCC unroll 16")
#endif
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/linear-inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace braid {

constinit const CpuLevel kAvx2Level{"avx2", avx2::LinearOutputs, avx2::Attend};

}  // namespace braid

#else

namespace braid {

constinit const CpuLevel kAvx2Level{"avx2", nullptr, nullptr};

}  // namespace braid

#endif
