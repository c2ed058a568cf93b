#include "kernels/cuda/combine.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"

namespace braid::gpu {
namespace {

constexpr int kThreads = 256;

// A block has a token, a thread eight columns at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads) CombineKernel(Combine op) {
  LAUNCH_BOUNDS(kThreads);
  const int64_t t = blockIdx.x;
  for (int column = 8 * threadIdx.x; column < op.D; column += 8 * blockDim.x) {
    Floats<8> y = {};
#pragma unroll 4
    for (int k = 0; k < op.K; ++k) {
      const int64_t row = op.row_of[t * op.K + k];
      if (row < 0) continue;
      const float weight = op.weights[t * op.K + k];
      const Floats<8> x = LoadFloats<8>(static_cast<const T*>(op.rows) + row * op.D + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] += weight * x[i];
    }
    StoreFloats(op.y + t * op.D + column, y);
  }
}

}  // namespace

cudaError_t Run(const Combine& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  return Launch(op.type == DType::kBF16 ? CombineKernel<__nv_bfloat16> : CombineKernel<float>, dim3(op.T),
                dim3(WarpsOf(op.D / 8, kThreads)), 0, stream, op);
}

}  // namespace braid::gpu
