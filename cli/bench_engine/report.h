#pragma once

#include <cstdint>
#include <string>

#include "cli/bench_engine/engine_bench.h"

namespace braid {

// What the figures are of.
struct EngineBenchSubject {
  std::string model;  // its name
  std::string path;
  uint64_t weight_bytes = 0;
  std::string cpu_level;
};

// Two tables: points with their limits, and where the time of their steps goes.
std::string EngineBenchTable(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                             const EngineBenchResults& results);
// All of it, each sample too. Seconds, bytes and operations without prefixes.
std::string EngineBenchJson(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                            const EngineBenchResults& results);

}  // namespace braid
