#include "kernels/cpu/level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>

#include "base/check.h"

namespace braid {
namespace {

bool HasAvx2() {
#if defined(__x86_64__)
  unsigned a, b, c, d;  // clang 14's __builtin_cpu_supports does not know f16c
  const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  return has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

CpuLevel ChooseLevel() {
  const char* wish = std::getenv("BRAID_CPU_LEVEL");
  if (wish == nullptr || *wish == '\0') return HasAvx2() ? kAvx2Level : kPortableLevel;
  const std::optional<CpuLevel> level = FindCpuLevel(wish);
  CHECK(level.has_value()) << "BRAID_CPU_LEVEL=" << wish << " must be portable, or avx2 on a machine that has it";
  return *level;
}

}  // namespace

std::optional<CpuLevel> FindCpuLevel(std::string_view name) {
  if (name == kPortableLevel.name) return kPortableLevel;
  if (name == kAvx2Level.name && HasAvx2()) return kAvx2Level;
  return std::nullopt;
}

const CpuLevel& ActiveCpuLevel() {
  static const CpuLevel level = ChooseLevel();
  return level;
}

}  // namespace braid
