#include "base/human.h"

#include <array>
#include <cstdio>

namespace braid {
namespace {

std::string Human(uint64_t count, const std::array<const char*, 5>& units) {
  auto value = static_cast<double>(count);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.*f%s", unit == 0 || value >= 99.95 ? 0 : (value >= 9.995 ? 1 : 2), value,
                units[unit]);
  return text;
}

}  // namespace

std::string HumanBytes(uint64_t bytes) { return Human(bytes, {" B", " kB", " MB", " GB", " TB"}); }
std::string HumanQuantity(uint64_t quantity) { return Human(quantity, {"", " K", " M", " B", " T"}); }

}  // namespace braid
