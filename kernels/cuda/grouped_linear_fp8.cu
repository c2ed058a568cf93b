#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_mma.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/ptx_mma.h"

// Both operands in FP8. A row's 128 bytes are a block, with a scale of its own on both sides, and as many as a slice of
// bfloat16 has: they travel and lie as if each two were one number, and what of those would be two steps of 16 columns
// is two of 32. A block is summed by the tensor cores from zero, which also is as far as their sums should be trusted
// (some keep fewer bits than float32 when they add up FP8), and then added with both scales.

namespace braid::gpu {
namespace {

constexpr int kTileOutputs = 64, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kHalves = kSlice / 32;
static_assert(2 * kSlice == kFp8Block);

__device__ inline float Bf16ToFloat(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// kWarpsM x (kWarps / kWarpsM) warps, each with kTilesM x kTilesN results of 16 x 8.
template <bool kSwiGlu, int kWarpsM, int kTilesM, int kTilesN>
__global__ void __launch_bounds__(kThreads) Fp8ByFp8LinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  constexpr int kWarpsN = kWarps / kWarpsM, kRows = kWarpsM * kTilesM * 16;
  static_assert(kWarpsN * kTilesN * 8 == kTileOutputs && kRows <= kThreads && kTileOutputs <= kThreads);
  SHARED_ARRAY(__nv_bfloat16, shared_x, kRows * kSlice);
  SHARED_ARRAY(__nv_bfloat16, shared_w, kTileOutputs * kSlice);
  SHARED_ARRAY(float, x_scales, kRows);
  SHARED_ARRAY(float, w_scales, kTileOutputs);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp % kWarpsM * kTilesM * 16, warp_n = warp / kWarpsM * kTilesN * 8;
  const GroupedTile tile = FindTile(op, blockIdx.y, kRows, lane);
  if (tile.begin == tile.end) return;  // all of the block
  const int first_output = blockIdx.x * kTileOutputs, outputs = min(kTileOutputs, op.N - first_output);
  const int64_t first_weight = FirstWeight(op, tile.expert) + first_output;
  const int pairs = op.K / 2, blocks = (op.K + kFp8Block - 1) / kFp8Block;

  const auto row_of_x = [&](int m) -> const __nv_bfloat16* {
    const int row = RowOfX(op, tile, m);
    return row < 0 ? nullptr : static_cast<const __nv_bfloat16*>(op.x) + static_cast<int64_t>(row) * pairs;
  };
  const auto row_of_w = [&](int n) -> const __nv_bfloat16* {
    return n < outputs ? static_cast<const __nv_bfloat16*>(op.w.data) + (first_weight + n) * pairs : nullptr;
  };
  const int own_row = threadIdx.x < kRows ? RowOfX(op, tile, threadIdx.x) : -1;
  HeldSlice<kRows, kThreads> x;
  HeldSlice<kTileOutputs, kThreads> w;
  float x_scale, w_scale;
  const auto load = [&](int block) {
    x.Load(row_of_x, block * kSlice, pairs);
    w.Load(row_of_w, block * kSlice, pairs);
    x_scale = own_row < 0 ? 0 : Bf16ToFloat(op.x_scales[static_cast<int64_t>(own_row) * blocks + block]);
    w_scale = static_cast<int>(threadIdx.x) < outputs
                  ? Bf16ToFloat(op.w.scales[(first_weight + threadIdx.x) * blocks + block])
                  : 0;
  };

  float c[kTilesM][kTilesN][4] = {};
  load(0);
  for (int block = 0; block < blocks; ++block) {
    __syncthreads();  // nobody reads the slice before
    x.Store(shared_x);
    w.Store(shared_w);
    if (threadIdx.x < kRows) x_scales[threadIdx.x] = x_scale;
    if (threadIdx.x < kTileOutputs) w_scales[threadIdx.x] = w_scale;
    __syncthreads();
    if (block + 1 < blocks) load(block + 1);
    float sums[kTilesM][kTilesN][4] = {};
#pragma unroll 1  // the operands of both would not fit a thread's registers
    for (int half = 0; half < kHalves; ++half) {
      LeftOperand<kTilesM> a;
      a.Load(shared_x, warp_m, half, lane);
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) {
        RightOperand b;
        b.LoadBf16(shared_w, warp_n + n * 8 + lane / 4, half, lane);
#pragma unroll
        for (int step = 0; step < 2; ++step) {
#pragma unroll
          for (int m = 0; m < kTilesM; ++m) MmaE4M3(sums[m][n], a.words[step][m], b.words[step]);
        }
      }
    }
    // Scales are powers of two: only the addition rounds.
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const Vec<float, 2> scale = LoadVec<2>(w_scales + warp_n + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float row_scale = x_scales[warp_m + m * 16 + i / 2 * 8 + lane / 4];
          c[m][n][i] = fmaf(sums[m][n][i] * scale[i % 2], row_scale, c[m][n][i]);
        }
      }
    }
  }
  StoreResults<kSwiGlu>(op, tile, warp_m, first_output + warp_n, c, lane);
}

template <bool kSwiGlu>
cudaError_t RunFor(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  const dim3 grid((op.N + kTileOutputs - 1) / kTileOutputs, TilesMax(op, config.tile_rows)), block(kThreads);
  switch (config.tile_rows) {
    case 16:
      return Launch(Fp8ByFp8LinearKernel<kSwiGlu, 1, 1, 2>, grid, block, 0, stream, op);
    case 64:
      return Launch(Fp8ByFp8LinearKernel<kSwiGlu, 2, 2, 4>, grid, block, 0, stream, op);
    default:
      return cudaErrorInvalidConfiguration;
  }
}

}  // namespace

cudaError_t RunFp8(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  return op.swiglu ? RunFor<true>(op, config, stream) : RunFor<false>(op, config, stream);
}

}  // namespace braid::gpu
