#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_mma.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/quants.h"

// A block has a tile of rows and kTileOutputs outputs of one expert and walks K in slices of kSlice columns: while it
// multiplies a slice out of shared memory, the next one is on its way to registers.

namespace braid::gpu {
namespace {

constexpr int kTileOutputs = 64, kWarps = 4, kThreads = 32 * kWarps;

// Weights as bfloat16: products go straight into the result.
struct Bf16Weights {
  HeldSlice<kTileOutputs, kThreads> slice;
  __nv_bfloat16* shared;

  __device__ void Load(const GroupedLinear& op, int64_t first, int outputs, int column) {
    const auto* data = static_cast<const __nv_bfloat16*>(op.w.data);
    slice.Load([&](int n) { return n < outputs ? data + (first + n) * op.K : nullptr; }, column, op.K);
  }
  __device__ void Store() const { slice.Store(shared); }
  // The 32 columns `half` of the slice.
  template <int kTilesM>
  __device__ void MultiplyAdd(float (*c)[4], int c_stride, const LeftOperand<kTilesM>& a, int n, int half,
                              int lane) const {
    RightOperand b;
    b.LoadBf16(shared, n + lane / 4, half, lane);
    gpu::MultiplyAdd(c, c_stride, a, b);
  }
};

// Weights as Q4_0: quants are multiplied as whole numbers, the block's sum then by its scale.
struct Q4Weights {
  static constexpr int kBlocks = kSlice / 32;
  static_assert(kTileOutputs * kBlocks == kThreads, "a thread has a block");
  Vec<uint8_t, 16> held;
  float held_scale;
  uint8_t* quants;  // (kTileOutputs, kBlocks, 16)
  float* scales;    // (kBlocks, kTileOutputs)

  __device__ void Load(const GroupedLinear& op, int64_t first, int outputs, int column) {
    const int n = threadIdx.x / kBlocks, k = column + threadIdx.x % kBlocks * 32;
    held = {};
    held_scale = 0;
    if (n >= outputs || k >= op.K) return;
    const int64_t block = (first + n) * (op.K / 32) + k / 32;
    held = LoadVec<16>(static_cast<const uint8_t*>(op.w.data) + block * 16);
    held_scale = HalfToFloat(op.w.scales[block]);
  }
  __device__ void Store() const {
    StoreVec(quants + threadIdx.x * 16, held);
    scales[threadIdx.x % kBlocks * kTileOutputs + threadIdx.x / kBlocks] = held_scale;
  }
  template <int kTilesM>
  __device__ void MultiplyAdd(float (*c)[4], int c_stride, const LeftOperand<kTilesM>& a, int n, int half,
                              int lane) const {
    // Columns [8 t, 8 t + 8): the low nibbles of bytes 0 to 7, of 8 to 15, then the high ones.
    const int t = lane % 4;
    const Vec<uint32_t, 2> bytes =
        LoadVec<2>(reinterpret_cast<const uint32_t*>(quants + ((n + lane / 4) * kBlocks + half) * 16 + t % 2 * 8));
    uint32_t b[2][2];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint32_t nibbles = bytes[step] >> (t < 2 ? 0 : 4);
      b[step][0] = Bf16PairOfQuants(nibbles), b[step][1] = Bf16PairOfQuants(nibbles >> 16);
    }
    const Vec<float, 2> scale = LoadVec<2>(scales + half * kTileOutputs + n + 2 * t);
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      float sum[4] = {};
      MmaBf16(sum, a.words[0][m], b[0]);
      MmaBf16(sum, a.words[1][m], b[1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) c[m * c_stride][i] = fmaf(sum[i], scale[i % 2], c[m * c_stride][i]);
    }
  }
};

// Weights as FP8.
struct Fp8Weights {
  static_assert(kTileOutputs * 2 == kThreads, "a thread has half a slice of a row");
  Vec<uint8_t, 16> held[2];
  uint32_t held_scale;
  uint8_t* quants;   // (kTileOutputs, kSlice)
  uint32_t* scales;  // (kTileOutputs)

  __device__ void Load(const GroupedLinear& op, int64_t first, int outputs, int column) {
    const int n = threadIdx.x / 2, k = column + threadIdx.x % 2 * 32;
    const int64_t row = first + n;
    held[0] = held[1] = {};
    held_scale = 0;
    if (n >= outputs) return;
    const uint8_t* from = static_cast<const uint8_t*>(op.w.data) + row * op.K + k;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (k + i * 16 < op.K) held[i] = LoadVec<16>(from + i * 16);
    held_scale = Fp8ScalePair(op.w, row, column);
  }
  __device__ void Store() const {
    uint8_t* to = quants + HalfAt(threadIdx.x / 2, threadIdx.x % 2);
    StoreVec(to, held[0]);
    StoreVec(to + 16, held[1]);
    if (threadIdx.x % 2 == 0) scales[threadIdx.x / 2] = held_scale;
  }
  template <int kTilesM>
  __device__ void MultiplyAdd(float (*c)[4], int c_stride, const LeftOperand<kTilesM>& a, int n, int half,
                              int lane) const {
    RightOperand b;
    b.LoadFp8(quants, scales[n + lane / 4], n + lane / 4, half, lane);
    gpu::MultiplyAdd(c, c_stride, a, b);
  }
};

// kWarpsM x (kWarps / kWarpsM) warps, each with kTilesM x kTilesN results of 16 x 8.
template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN, typename Weights>
__device__ void GroupedLinearTile(const GroupedLinear& op, Weights& weights, __nv_bfloat16* shared_x) {
  constexpr int kWarpsN = kWarps / kWarpsM, kRows = kWarpsM * kTilesM * 16;
  static_assert(kWarpsN * kTilesN * 8 == kTileOutputs);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp % kWarpsM * kTilesM * 16, warp_n = warp / kWarpsM * kTilesN * 8;
  const GroupedTile tile = FindTile(op, blockIdx.y, kRows, lane);
  if (tile.begin == tile.end) return;  // all of the block
  const int first_output = blockIdx.x * kTileOutputs, outputs = min(kTileOutputs, op.N - first_output);
  const int64_t first_weight = FirstWeight(op, tile.expert) + first_output;

  const auto row_of_x = [&](int m) -> const __nv_bfloat16* {
    const int row = RowOfX(op, tile, m);
    return row < 0 ? nullptr : static_cast<const __nv_bfloat16*>(op.x) + static_cast<int64_t>(row) * op.K;
  };
  HeldSlice<kRows, kThreads> x;
  float c[kTilesM][kTilesN][4] = {};
  x.Load(row_of_x, 0, op.K);
  weights.Load(op, first_weight, outputs, 0);
  for (int column = 0; column < op.K; column += kSlice) {
    __syncthreads();  // nobody reads the slice before
    x.Store(shared_x);
    weights.Store();
    __syncthreads();
    if (column + kSlice < op.K) {
      x.Load(row_of_x, column + kSlice, op.K);
      weights.Load(op, first_weight, outputs, column + kSlice);
    }
#pragma unroll
    for (int half = 0; half < kSlice / 32; ++half) {
      LeftOperand<kTilesM> a;
      a.Load(shared_x, warp_m, half, lane);
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
        weights.template MultiplyAdd<kTilesM>(&c[0][n], kTilesN, a, warp_n + n * 8, half, lane);
    }
  }
  StoreResults<kSwiGlu>(op, tile, warp_m, first_output + warp_n, c, lane);
}

template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN>
__global__ void __launch_bounds__(kThreads) Bf16LinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(__nv_bfloat16, shared_x, kWarpsM * kTilesM * 16 * kSlice);
  SHARED_ARRAY(__nv_bfloat16, shared_w, kTileOutputs * kSlice);
  Bf16Weights weights;
  weights.shared = shared_w;
  GroupedLinearTile<kSwiGlu, kWarpsM, kTilesM, kTilesN>(op, weights, shared_x);
}

template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN>
__global__ void __launch_bounds__(kThreads) Q4LinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(__nv_bfloat16, shared_x, kWarpsM * kTilesM * 16 * kSlice);
  SHARED_ARRAY(uint8_t, quants, kTileOutputs * kSlice / 2);
  SHARED_ARRAY(float, scales, kTileOutputs* kSlice / 32);
  Q4Weights weights;
  weights.quants = quants;
  weights.scales = scales;
  GroupedLinearTile<kSwiGlu, kWarpsM, kTilesM, kTilesN>(op, weights, shared_x);
}

template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN>
__global__ void __launch_bounds__(kThreads) Fp8LinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(__nv_bfloat16, shared_x, kWarpsM * kTilesM * 16 * kSlice);
  SHARED_ARRAY(uint8_t, quants, kTileOutputs * kSlice);
  SHARED_ARRAY(uint32_t, scales, kTileOutputs);
  Fp8Weights weights;
  weights.quants = quants;
  weights.scales = scales;
  GroupedLinearTile<kSwiGlu, kWarpsM, kTilesM, kTilesN>(op, weights, shared_x);
}

// By the type of the weights.
template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN>
auto KernelFor(DType weights) {
  return weights == DType::kQ4_0 ? Q4LinearKernel<kSwiGlu, kWarpsM, kTilesM, kTilesN>
         : weights == kFp8       ? Fp8LinearKernel<kSwiGlu, kWarpsM, kTilesM, kTilesN>
                                 : Bf16LinearKernel<kSwiGlu, kWarpsM, kTilesM, kTilesN>;
}

template <bool kSwiGlu>
cudaError_t RunFor(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  const dim3 grid((op.N + kTileOutputs - 1) / kTileOutputs, TilesMax(op, config.tile_rows)), block(kThreads);
  switch (config.tile_rows) {
    case 16:
      return Launch(KernelFor<kSwiGlu, 1, 1, 2>(op.w.type), grid, block, 0, stream, op);
    case 64:
      return Launch(KernelFor<kSwiGlu, 2, 2, 4>(op.w.type), grid, block, 0, stream, op);
    case GroupedLinearConfig::kWideRows:
      return op.w.type == DType::kQ4_0 ? cudaErrorInvalidConfiguration : RunWide(op, stream);
    default:
      return cudaErrorInvalidConfiguration;
  }
}

}  // namespace

cudaError_t RunMma(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  return op.swiglu ? RunFor<true>(op, config, stream) : RunFor<false>(op, config, stream);
}

}  // namespace braid::gpu
