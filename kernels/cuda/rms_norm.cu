#include "kernels/cuda/device.h"
#include "kernels/cuda/fp8_block.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/numbers.h"
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

// What a row is multiplied by; keeps its sum, if somebody wants it.
template <int kThreads, int N>
__device__ __forceinline__ float Scale(const RmsNorm& op, int64_t row, float* scratch) {
  float squares = 0;
  for (int d = threadIdx.x * N; d < op.D; d += kThreads * N) {
    const Vec<float, N> x = Normed<N>(op, row + d);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(x[i], x[i], squares);
    if (op.sum != nullptr) StoreVec(op.sum + row + d, x);
  }
  return rsqrtf(BlockSum<kThreads>(squares, scratch) / op.D + op.eps);
}

// N results, which it returns too.
template <int N>
__device__ __forceinline__ Vec<float, N> StoreNormed(const RmsNorm& op, int64_t row, int d, float scale) {
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
  return y;
}

template <int kThreads, int N>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(RmsNorm op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, scratch, kThreads / 32);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.D;
  const float scale = Scale<kThreads, N>(op, row, scratch);
  for (int d = threadIdx.x * N; d < op.D; d += kThreads * N) StoreNormed<N>(op, row, d, scale);
}

// The same for y_fp8. A warp's 32 fours are an FP8 block, the last of a row maybe a part of one.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) RmsNormFp8Kernel(RmsNorm op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, scratch, kThreads / 32);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * op.D;
  const int64_t first_scale = static_cast<int64_t>(blockIdx.x) * ((op.D + kFp8Block - 1) / kFp8Block);
  const float scale = Scale<kThreads, 4>(op, row, scratch);
  const int lane = threadIdx.x % 32;
  for (int first = threadIdx.x / 32 * kFp8Block; first < op.D; first += kThreads * 4) {
    Floats<4> values = {};
    if (first + lane * 4 < op.D) {
      const Vec<float, 4> y = StoreNormed<4>(op, row, first + lane * 4, scale);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = y[i];
    }
    StoreFp8Block(values, min(kFp8Block, op.D - first), op.y_fp8 + row + first,
                  op.y_scales + first_scale + first / kFp8Block, lane);
  }
}

template <int kThreads>
cudaError_t RunWith(const RmsNorm& op, bool vector, cudaStream_t stream) {
  const auto kernel = op.y_fp8 != nullptr ? RmsNormFp8Kernel<kThreads>
                      : vector            ? RmsNormKernel<kThreads, 4>
                                          : RmsNormKernel<kThreads, 1>;
  return Launch(kernel, dim3(op.T), dim3(kThreads), 0, stream, op);
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
