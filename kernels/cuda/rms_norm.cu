#include "kernels/cuda/device.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rms_norm.h"

// One block per row. A thread keeps to its own columns from the first pass to the second, so the only thing that
// crosses threads is the sum of squares.

namespace braid::gpu {
namespace {

template <int N>
__device__ __forceinline__ Vec<float, N> Normed(const RmsNorm& op, int64_t at) {
  Vec<float, N> x = LoadVec<N>(op.x + at);
  if (op.add == nullptr) return x;
  const Vec<float, N> add = LoadVec<N>(op.add + at);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] += add[i];
  return x;
}

template <int kThreads, int N>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(RmsNorm op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, scratch, kThreads / 32);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.D;

  float squares = 0;
  for (int d = threadIdx.x * N; d < op.D; d += kThreads * N) {
    const Vec<float, N> x = Normed<N>(op, row + d);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(x[i], x[i], squares);
    if (op.sum != nullptr) StoreVec(op.sum + row + d, x);
  }
  const float scale = rsqrtf(BlockSum<kThreads>(squares, scratch) / op.D + op.eps);

  for (int d = threadIdx.x * N; d < op.D; d += kThreads * N) {
    Vec<float, N> y = op.sum != nullptr ? LoadVec<N>(op.sum + row + d) : Normed<N>(op, row + d);
    const Vec<float, N> weight = LoadVec<N>(op.weight + d);
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = y[i] * scale * weight[i];
    if (op.y != nullptr) StoreVec(op.y + row + d, y);
    if (op.y_bf16 != nullptr) {
      Vec<__nv_bfloat16, N> rounded;
#pragma unroll
      for (int i = 0; i < N; ++i) rounded[i] = __float2bfloat16_rn(y[i]);
      StoreVec(op.y_bf16 + row + d, rounded);
    }
  }
}

template <int kThreads>
cudaError_t RunWith(const RmsNorm& op, bool vector, cudaStream_t stream) {
  return Launch(vector ? RmsNormKernel<kThreads, 4> : RmsNormKernel<kThreads, 1>, dim3(op.T), dim3(kThreads), 0, stream,
                op);
}

}  // namespace

cudaError_t Run(const RmsNorm& op, const RmsNormConfig& config, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  switch (config.threads) {
    case 32:
      return RunWith<32>(op, config.vector, stream);
    case 64:
      return RunWith<64>(op, config.vector, stream);
    case 128:
      return RunWith<128>(op, config.vector, stream);
    case 256:
      return RunWith<256>(op, config.vector, stream);
    default:
      return cudaErrorInvalidConfiguration;
  }
}

}  // namespace braid::gpu
