#pragma once

// The levels, one per level_*.cc. Where the compiler's target is not x86-64 those of x86-64 are never supported.
//
// Everything that the loops of a level use of others is included here, before the level's file changes the target, so
// that no copy of a common inline function that needs its instructions can be chosen by the linker for a machine
// without them.

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/cpu/level.h"
#include "kernels/exp.h"
#include "kernels/half.h"

namespace braid {

extern const CpuLevel kPortableLevel;
extern const CpuLevel kAvx2Level;
extern const CpuLevel kAvx2VnniLevel;
extern const CpuLevel kAvx512Level;

#if defined(__x86_64__)
inline bool HasAvx2() {
  unsigned a, b, c, d;  // clang 14's __builtin_cpu_supports does not know f16c
  const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  return has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif
inline bool NeverSupported() { return false; }

}  // namespace braid
