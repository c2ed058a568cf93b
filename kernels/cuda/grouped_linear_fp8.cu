#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_mma.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/ptx_async_copy.h"
#include "kernels/cuda/ptx_mma.h"

// Both operands in FP8. A row's 128 bytes are a block, with a scale of its own on both sides, and as many as a slice of
// bfloat16 has: they travel and lie as if each two were one number, and what of those would be two steps of 16 columns
// is two of 32. A block is summed by the tensor cores from zero, which also is as far as their sums should be trusted
// (some keep fewer bits than float32 when they add up FP8), and then added with both scales.
//
// Small tiles are those of grouped_linear_mma.cu. Wide ones are of 128 x 128, as in grouped_linear_wide.cu, for many
// rows: slices come by cp.async. A block's sum and the sum of all take as many registers each, so that a warp has half
// of what it has there, and there are eight.

namespace braid::gpu {
namespace {

constexpr int kTileOutputs = 64, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kHalves = kSlice / 32;
static_assert(2 * kSlice == kFp8Block);

__device__ inline float Bf16ToFloat(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

// c += a block of the rows from warp_m on times one of the outputs from warp_n on. Scales are powers of two: only the
// addition rounds.
template <int kTilesM, int kTilesN>
__device__ inline void AddBlock(float (&c)[kTilesM][kTilesN][4], const __nv_bfloat16* shared_x,
                                const __nv_bfloat16* shared_w, const float* x_scales, const float* w_scales, int warp_m,
                                int warp_n, int lane) {
  float sums[kTilesM][kTilesN][4] = {};
#pragma unroll 1  // one at a time: where an instruction is made of others, operands take twice the registers
  for (int at = 0; at < 2 * kHalves; ++at) {
    const int half = at / 2;
    const bool second = at % 2 != 0;  // of a half's steps
    LeftOperand<kTilesM> a;
    a.Load(shared_x, warp_m, half, lane);
    uint32_t rows[kTilesM][4];
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[m][i] = second ? a.words[1][m][i] : a.words[0][m][i];
    }
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      RightOperand b;
      b.LoadBf16(shared_w, warp_n + n * 8 + lane / 4, half, lane);
      const uint32_t outputs[2] = {second ? b.words[1][0] : b.words[0][0], second ? b.words[1][1] : b.words[0][1]};
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) MmaE4M3(sums[m][n], rows[m], outputs);
    }
  }
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
    AddBlock(c, shared_x, shared_w, x_scales, w_scales, warp_m, warp_n, lane);
  }
  StoreResults<kSwiGlu>(op, tile, warp_m, first_output + warp_n, c, lane);
}

constexpr int kWideRows = GroupedLinearConfig::kWideRows, kWideOutputs = 128, kWideThreads = 256;
constexpr int kWideTilesM = 2, kWideTilesN = 8;  // of a warp: four have the rows, two the outputs
constexpr int kStages = 3;                       // 96 KB: what a block may have on 8.9

template <bool kSwiGlu>
__global__ void __launch_bounds__(kWideThreads, 1) WideFp8ByFp8LinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kWideThreads);
  static_assert(kWideThreads == kWideRows + kWideOutputs);
  constexpr int kLoadRows = kWideThreads / kChunks;  // a thread copies a chunk of rows so far apart
  SHARED_ARRAY(int, rows_of_x, kWideRows);
  SHARED_ARRAY(float, scales, 2 * kWideThreads);  // of every other block: the rows', the outputs'
  DynShared dynamic;
  __nv_bfloat16* const shared_x = dynamic.Take<__nv_bfloat16>(kStages * kWideRows * kSlice);
  __nv_bfloat16* const shared_w = dynamic.Take<__nv_bfloat16>(kStages * kWideOutputs * kSlice);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warp_m = warp % 4 * kWideTilesM * 16, warp_n = warp / 4 * kWideTilesN * 8;
  const GroupedTile tile = FindTile(op, blockIdx.y, kWideRows, lane);
  if (tile.begin == tile.end) return;  // all of the block
  const int first_output = blockIdx.x * kWideOutputs, outputs = min(kWideOutputs, op.N - first_output);
  const int64_t first_weight = FirstWeight(op, tile.expert) + first_output;
  const int pairs = op.K / 2, blocks = (op.K + kFp8Block - 1) / kFp8Block;

  if (thread < kWideRows) rows_of_x[thread] = RowOfX(op, tile, thread);
  __syncthreads();
  const auto start_load = [&](int block, int stage) {
    if (block < blocks) {
      const int chunk = thread % kChunks, k = block * kSlice + chunk * 8;
      const auto* x = static_cast<const __nv_bfloat16*>(op.x);
      const auto* w = static_cast<const __nv_bfloat16*>(op.w.data) + first_weight * pairs;
#pragma unroll 2  // no more addresses at once than there are registers for
      for (int i = 0; i < kWideRows / kLoadRows; ++i) {
        const int at = thread / kChunks + i * kLoadRows, row = rows_of_x[at];
        const bool x_valid = row >= 0 && k < pairs, w_valid = at < outputs && k < pairs;
        CopyAsync<16>(shared_x + stage * kWideRows * kSlice + ChunkAt(at, chunk),
                      x_valid ? x + static_cast<int64_t>(row) * pairs + k : x, x_valid);
        CopyAsync<16>(shared_w + stage * kWideOutputs * kSlice + ChunkAt(at, chunk),
                      w_valid ? w + static_cast<int64_t>(at) * pairs + k : w, w_valid);
      }
    }
    CopyAsyncCommit();  // also of nothing, so that groups count blocks
  };
  // A thread has the scales of one row or output, if there is that.
  const int own_row = thread < kWideRows ? rows_of_x[thread] : -1;
  const int own_output = thread - kWideRows;
  const uint16_t* own_scales = nullptr;
  if (own_row >= 0) own_scales = op.x_scales + static_cast<int64_t>(own_row) * blocks;
  if (own_output >= 0 && own_output < outputs) own_scales = op.w.scales + (first_weight + own_output) * blocks;
  const auto load_scale = [&](int block) {
    return own_scales == nullptr || block == blocks ? 0 : Bf16ToFloat(own_scales[block]);
  };

#pragma unroll
  for (int block = 0; block < kStages - 1; ++block) start_load(block, block);
  float scale = load_scale(0);
  float c[kWideTilesM][kWideTilesN][4] = {};
  int stage = 0;
  for (int block = 0; block < blocks; ++block) {
    float* const block_scales = scales + block % 2 * kWideThreads;  // nobody reads those of the block before last
    block_scales[thread] = scale;
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // the block is here for everybody, and nobody reads the one before, whose place is next
    start_load(block + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
    scale = load_scale(block + 1);
    AddBlock(c, shared_x + stage * kWideRows * kSlice, shared_w + stage * kWideOutputs * kSlice, block_scales,
             block_scales + kWideRows, warp_m, warp_n, lane);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  CopyAsyncWait<0>();  // of nothing
  StoreResults<kSwiGlu>(op, tile, warp_m, first_output + warp_n, c, lane);
}

template <bool kSwiGlu>
cudaError_t RunWideFor(const GroupedLinear& op, cudaStream_t stream) {
  const size_t bytes = DynSharedBytes<__nv_bfloat16>(kStages * kWideRows * kSlice) +
                       DynSharedBytes<__nv_bfloat16>(kStages * kWideOutputs * kSlice);
  const auto kernel = WideFp8ByFp8LinearKernel<kSwiGlu>;
  if (const cudaError_t error = AllowSharedBytes(kernel, bytes); error != cudaSuccess) return error;
  const dim3 grid((op.N + kWideOutputs - 1) / kWideOutputs, TilesMax(op, kWideRows));
  return Launch(kernel, grid, dim3(kWideThreads), bytes, stream, op);
}

template <bool kSwiGlu>
cudaError_t RunFor(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  const dim3 grid((op.N + kTileOutputs - 1) / kTileOutputs, TilesMax(op, config.tile_rows)), block(kThreads);
  switch (config.tile_rows) {
    case 16:
      return Launch(Fp8ByFp8LinearKernel<kSwiGlu, 1, 1, 2>, grid, block, 0, stream, op);
    case 64:
      return Launch(Fp8ByFp8LinearKernel<kSwiGlu, 2, 2, 4>, grid, block, 0, stream, op);
    case GroupedLinearConfig::kWideRows:
      return RunWideFor<kSwiGlu>(op, stream);
    default:
      return cudaErrorInvalidConfiguration;
  }
}

}  // namespace

cudaError_t RunFp8(const GroupedLinear& op, const GroupedLinearConfig& config, cudaStream_t stream) {
  return op.swiglu ? RunFor<true>(op, config, stream) : RunFor<false>(op, config, stream);
}

}  // namespace braid::gpu
