#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/swiglu.h"

namespace braid::gpu {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(SwiGlu op) {
  LAUNCH_BOUNDS(kThreads);
  const int64_t t = blockIdx.x;
  const T* gate_up = static_cast<const T*>(op.gate_up) + t * 2 * op.F;
  for (int column = 8 * threadIdx.x; column < op.F; column += 8 * blockDim.x) {
    Floats<8> y = LoadFloats<8>(gate_up + column);
    const Floats<8> up = LoadFloats<8>(gate_up + op.F + column);
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = Silu(y[i]) * up[i];
    StoreFloats(static_cast<T*>(op.y) + t * op.F + column, y);
  }
}

}  // namespace

cudaError_t Run(const SwiGlu& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  return Launch(op.type == DType::kBF16 ? SwiGluKernel<__nv_bfloat16> : SwiGluKernel<float>, dim3(op.T),
                dim3(WarpsOf(op.F / 8, kThreads)), 0, stream, op);
}

}  // namespace braid::gpu
