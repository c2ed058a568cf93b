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
  std::string device;       // "cpu", "cuda:0"
  std::string arithmetic;   // see ComputeDevice
  std::string device_name;  // a GPU's; the level of the CPU's kernels
};

// Two tables: points with their limits, and where the time of their steps goes.
std::string EngineBenchTable(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                             const EngineBenchResults& results);
// All of it, each sample too. Seconds, bytes and operations without prefixes.
std::string EngineBenchJson(const EngineBenchSubject& subject, const EngineBenchOptions& options,
                            const EngineBenchResults& results);

}  // namespace braid
