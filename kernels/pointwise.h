#pragma once

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// x += y
struct AddTo {
  int64_t n = 0;
  float* x = nullptr;
  const float* y = nullptr;
};
absl::Status Check(const AddTo& op);
void Run(const AddTo& op, ThreadPool& pool);

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
