#pragma once

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// y = silu(gate) * up, where silu(z) = z / (1 + exp(-z)).
struct SwiGlu {
  int64_t n = 0;
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;  // may be gate or up
};
absl::Status Check(const SwiGlu& op);
void Run(const SwiGlu& op, ThreadPool& pool);

namespace ref {
void Run(const SwiGlu& op);
}

}  // namespace braid
