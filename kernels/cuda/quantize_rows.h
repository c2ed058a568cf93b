#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/cuda/matrix.h"

namespace braid::gpu {

// Activations as FP8, by the rule of QuantizeFp8: for each 128 columns of a row the least power of two at which they
// are within e4m3's range. A block with a number that is not finite has a NaN for its scale, so that whatever it is
// multiplied by is one, too.
struct QuantizeRows {
  int T = 0, D = 0;                 // D a multiple of 16
  DType type = DType::kBF16;        // of x: kBF16 or kF32
  const void* x = nullptr;          // (T, D)
  uint8_t* y = nullptr;             // (T, D)
  uint16_t* scales = nullptr;       // (T, Fp8Blocks(D)), bfloat16
  const int32_t* source = nullptr;  // (T), the row of x that each row reads; nullptr: row t reads row t
  const int32_t* rows = nullptr;    // how many of the T there are; nullptr: all
};
absl::Status Check(const QuantizeRows& op);
cudaError_t Run(const QuantizeRows& op, cudaStream_t stream);

}  // namespace braid::gpu
