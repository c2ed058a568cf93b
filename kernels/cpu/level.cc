#include "kernels/cpu/level.h"

#include <cstdlib>

#include "base/check.h"

namespace braid {
namespace {

bool HasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
