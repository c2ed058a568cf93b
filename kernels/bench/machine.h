#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/thread_pool.h"

namespace braid {

// What a machine can do at most on some threads: other speeds are given as a share of it.
struct MachineLimits {
  double read_bytes_per_second = 0;  // from memory
  double int8_ops_per_second = 0;    // a multiplication and its addition are two
};

// Measures them, with the best instructions this machine has whatever BRAID_CPU_LEVEL says. On a shared machine the
// limits change from second to second, so measure next to what is compared with them. Not thread-safe.
class MachineProbe {
 public:
  explicit MachineProbe(ThreadPool* pool);  // must outlive *this
  ~MachineProbe();
  MachineProbe(const MachineProbe&) = delete;

  // The best of a few passes, for what others do on the machine only ever takes away. About 0.1 s.
  MachineLimits Measure();

  // Memory that it holds to read from.
  uint64_t bytes() const { return bytes_; }
  // What multiplies: "vpdpbusd zmm".
  std::string_view int8_instruction() const;

 private:
  ThreadPool* pool_;
  size_t bytes_;
  std::byte* memory_;
};

}  // namespace braid
