#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, in float. Where asked for, what is normed is x + add, and is kept
// in `sum`. At least one of y, y_bf16 and y_fp8 is set; the last is what QuantizeRows makes of y, and wants D to be a
// multiple of 16 and vectors.
struct RmsNorm {
  int T = 0, D = 0;
  const float* x = nullptr;       // (T, D)
  const float* weight = nullptr;  // (D)
  float eps = 0;
  const float* add = nullptr;       // (T, D)
  float* sum = nullptr;             // (T, D); may be x or add
  float* y = nullptr;               // (T, D); may be x, if that is not sum
  __nv_bfloat16* y_bf16 = nullptr;  // (T, D)
  uint8_t* y_fp8 = nullptr;         // (T, D)
  uint16_t* y_scales = nullptr;     // (T, Fp8Blocks(D)), with y_fp8
};
absl::Status Check(const RmsNorm& op);

// Any choice gives a row bits that depend on (D, threads, vector) and the row alone.
struct RmsNormConfig {
  int threads = 0;      // per row: 32, 64, 128 or 256
  bool vector = false;  // four numbers at a time. REQUIRES: D % 4 == 0 and every pointer at a multiple of 16 bytes
};
RmsNormConfig Choose(const RmsNorm& op);

// REQUIRES: Check(op).ok(); every pointer is the device's.
cudaError_t Run(const RmsNorm& op, const RmsNormConfig& config, cudaStream_t stream);

}  // namespace braid::gpu
