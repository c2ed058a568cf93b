#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace braid::simulation {

struct Result {
  std::string failure;  // empty: every promise was kept
  uint64_t trace = 0;   // equal for equal seeds
  std::map<std::string, int64_t, std::less<>> counts;
};

// One cluster, its faults and its callers, from the first start to the last answer. Deterministic. With `log`, tells
// its story on standard output.
Result Simulate(uint64_t seed, bool log);

}  // namespace braid::simulation
