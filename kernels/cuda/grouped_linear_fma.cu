#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/quants.h"

// The product in float32, for activations in float32: what shows that a step on a GPU says what the CPU says, and what
// a router in float32 goes through. A thread has one output of eight rows.

namespace braid::gpu {
namespace {

constexpr int kSlice = 32, kTileRows = 16, kTileOutputs = 64, kThreads = 128, kRowsPerThread = 8;
static_assert(kTileRows / kRowsPerThread * kTileOutputs == kThreads);
constexpr int kWeightStride = kSlice + 1;  // lanes read neighbouring rows of weights

template <Stored kStored>
__global__ void __launch_bounds__(kThreads) FmaLinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, shared_x, kTileRows* kSlice);
  SHARED_ARRAY(float, shared_w, kTileOutputs* kWeightStride);
  const GroupedTile tile = FindTile(op, blockIdx.y, kTileRows, threadIdx.x % 32);
  if (tile.begin == tile.end) return;  // all of the block
  const int first_output = blockIdx.x * kTileOutputs, n = threadIdx.x % kTileOutputs;
  const int64_t first_weight = FirstWeight(op, tile.expert) + first_output;
  const int first_row = threadIdx.x / kTileOutputs * kRowsPerThread;
  float sums[kRowsPerThread] = {};
  for (int column = 0; column < op.K; column += kSlice) {
    __syncthreads();  // nobody reads the slice before
    for (int i = threadIdx.x; i < kTileRows * kSlice / 8; i += kThreads) {
      const int64_t row = tile.begin + i / (kSlice / 8);
      const int k = column + i % (kSlice / 8) * 8;
      Floats<8> x = {};
      if (row < tile.end && k < op.K)
        x = LoadFloats<8>(static_cast<const float*>(op.x) + (op.source == nullptr ? row : op.source[row]) * op.K + k);
      StoreFloats(shared_x + i * 8, x);
    }
    for (int i = threadIdx.x; i < kTileOutputs * kSlice / 8; i += kThreads) {
      const int output = i / (kSlice / 8), k = i % (kSlice / 8) * 8;
      Floats<8> w = {};
      if (first_output + output < op.N && column + k < op.K)
        w = LoadEight<kStored>(op.w, first_weight + output, column + k);
#pragma unroll
      for (int j = 0; j < 8; ++j) shared_w[output * kWeightStride + k + j] = w[j];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSlice; k += 4) {
      float w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) w[j] = shared_w[n * kWeightStride + k + j];
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        const Floats<4> x = LoadFloats<4>(shared_x + (first_row + i) * kSlice + k);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i] = fmaf(x[j], w[j], sums[i]);
      }
    }
  }
  const int output = first_output + n;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int64_t row = tile.begin + first_row + i;
    float y = sums[i];
    int64_t at = row * op.N + output;
    bool mine = row < tile.end && output < op.N;
    if (op.swiglu) {
      y = Silu(y) * __shfl_down_sync(kAllLanes, y, 8);
      at = row * (op.N / 2) + output / 16 * 8 + output % 8;
      mine = mine && output % 16 < 8;
    }
    if (!mine) continue;
    if (op.y_type == DType::kBF16) {
      static_cast<__nv_bfloat16*>(op.y)[at] = __float2bfloat16_rn(y);
    } else {
      static_cast<float*>(op.y)[at] = y;
    }
  }
}

}  // namespace

cudaError_t RunFma(const GroupedLinear& op, cudaStream_t stream) {
  const dim3 grid((op.N + kTileOutputs - 1) / kTileOutputs, TilesMax(op, kTileRows));
  return WithStored(op.w.type,
                    [&](auto stored) { return Launch(FmaLinearKernel<stored>, grid, dim3(kThreads), 0, stream, op); });
}

cudaError_t Run(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  if (op.rows_max == 0) return cudaSuccess;
  if (op.type == kFp8) return RunFp8(op, config, stream);
  return op.type == DType::kBF16 ? RunMma(op, config, stream) : RunFma(op, stream);
}

}  // namespace braid::gpu
