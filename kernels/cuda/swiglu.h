#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "base/dtype.h"

namespace braid::gpu {

// y = silu(gate) * up, where silu(z) = z / (1 + exp(-z)).
struct SwiGlu {
  int T = 0, F = 0;               // F a multiple of 8
  DType type = DType::kBF16;      // of gate_up and y: kF32 or kBF16
  const void* gate_up = nullptr;  // (T, 2, F)
  void* y = nullptr;              // (T, F); must not overlap gate_up
};
absl::Status Check(const SwiGlu& op);
cudaError_t Run(const SwiGlu& op, cudaStream_t stream);

}  // namespace braid::gpu
