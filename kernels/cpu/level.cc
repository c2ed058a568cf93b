#include "kernels/cpu/level.h"

#include <cstdlib>
#include <string>

#include "base/check.h"
#include "kernels/cpu/levels.h"

namespace braid {
namespace {

const CpuLevel* ChooseLevel() {
  const std::vector<const CpuLevel*> levels = SupportedCpuLevels();
  const char* wish = std::getenv("BRAID_CPU_LEVEL");
  if (wish == nullptr || *wish == '\0') return levels.back();
  std::string names;
  for (const CpuLevel* level : levels) {
    if (level->name == wish) return level;
    names += (names.empty() ? "" : ", ") + std::string(level->name);
  }
  CHECK(false) << "BRAID_CPU_LEVEL=" << wish << " must be one of those that this machine has: " << names;
  return nullptr;
}

const CpuLevel*& Active() {
  static const CpuLevel* level = ChooseLevel();
  return level;
}

}  // namespace

std::vector<const CpuLevel*> SupportedCpuLevels() {
  std::vector<const CpuLevel*> levels;
  for (const CpuLevel* level : {&kPortableLevel, &kAvx2Level, &kAvx2VnniLevel, &kAvx512Level})
    if (level->supported()) levels.push_back(level);
  return levels;
}

const CpuLevel& ActiveCpuLevel() { return *Active(); }

ScopedCpuLevel::ScopedCpuLevel(const CpuLevel* level) : before_(Active()) { Active() = level; }
ScopedCpuLevel::~ScopedCpuLevel() { Active() = before_; }

}  // namespace braid
