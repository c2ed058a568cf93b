#include "kernels/cuda/device.h"
#include "kernels/cuda/head_dim.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/qkv_heads.h"
#include "kernels/cuda/reduce.h"

namespace braid::gpu {
namespace {

constexpr int kWarps = 4;

// A warp works on one head of one row: lane l holds the numbers [l * kEach, (l + 1) * kEach), so that the other one of
// a pair is in lane l ^ 16.
template <int kEach>
__device__ Floats<kEach> NormAndRotate(const Floats<kEach>& x, const float* weight, float eps, const float* cos,
                                       const float* sin, int lane) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) squares = fmaf(x[i], x[i], squares);
  const float scale = 1 / sqrtf(WarpSum(squares) * (1.0f / (32 * kEach)) + eps);
  const Floats<kEach> w = LoadFloats<kEach>(weight + lane * kEach);
  const Floats<kEach> c = LoadFloats<kEach>(cos + lane % 16 * kEach);
  const Floats<kEach> s = LoadFloats<kEach>(sin + lane % 16 * kEach);
  Floats<kEach> y;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float mine = x[i] * scale * w[i];
    const float other = __shfl_xor_sync(kAllLanes, mine, 16);
    y[i] = fmaf(mine, c[i], (lane < 16 ? -other : other) * s[i]);
  }
  return y;
}

template <int kHeadDim, typename T>
__global__ void __launch_bounds__(32 * kWarps) QkvHeadsKernel(QkvHeads op) {
  LAUNCH_BOUNDS(32 * kWarps);
  constexpr int kEach = kHeadDim / 32;
  const int slots = op.heads + 2 * op.kv_heads;  // of a row
  const int lane = threadIdx.x % 32, slot = blockIdx.y * kWarps + threadIdx.x / 32;
  const int64_t t = blockIdx.x;
  const int position = op.rows.positions[t];
  if (slot >= slots || position < 0) return;
  Floats<kEach> x = LoadFloats<kEach>(static_cast<const T*>(op.qkv) + (t * slots + slot) * kHeadDim + lane * kEach);
  const bool is_query = slot < op.heads, is_value = slot >= op.heads + op.kv_heads;
  if (!is_value) {
    const int64_t angles = static_cast<int64_t>(position) * (kHeadDim / 2);
    x = NormAndRotate(x, is_query ? op.q_weight : op.k_weight, op.eps, op.cos + angles, op.sin + angles, lane);
  }
  if (is_query) {
    StoreFloats(static_cast<T*>(op.q) + (t * op.heads + slot) * kHeadDim + lane * kEach, x);
  } else {
    __nv_bfloat16* to = KeyAt(op.arena, BlocksOf(op.rows, t), position, (slot - op.heads) % op.kv_heads);
    if (is_value) to += KvArena::kBlockTokens * kHeadDim;
    StoreFloats(to + lane * kEach, x);
  }
}

template <int kHeadDim>
cudaError_t RunFor(const QkvHeads& op, cudaStream_t stream) {
  const auto kernel =
      op.type == DType::kBF16 ? QkvHeadsKernel<kHeadDim, __nv_bfloat16> : QkvHeadsKernel<kHeadDim, float>;
  const int slots = op.heads + 2 * op.kv_heads;
  return Launch(kernel, dim3(op.T, (slots + kWarps - 1) / kWarps), dim3(32 * kWarps), 0, stream, op);
}

}  // namespace

cudaError_t Run(const QkvHeads& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  return WithHeadDim(op.head_dim, [&](auto head_dim) { return RunFor<head_dim>(op, stream); });
}

}  // namespace braid::gpu
