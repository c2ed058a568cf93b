#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/grouped_mma.h"
#include "kernels/cuda/grouped_tile.h"
#include "kernels/cuda/ptx_async_copy.h"
#include "kernels/cuda/quants.h"

// For experts with many rows: tiles of 128 x 128, which read each operand half as often as those of 64 x 64, and whose
// warps multiply 64 x 64 out of registers: 128 bytes of shared memory for each product of 16 x 8 x 16, which is what an
// SM reads in the time that its tensor cores take for one.
//
// Slices come by cp.async, kStages - 1 of them on their way while one is multiplied. They are as in the small tiles,
// and so are the bits.

namespace braid::gpu {
namespace {

constexpr int kRows = GroupedLinearConfig::kWideRows, kOutputs = 128;
constexpr int kWarps = 4, kThreads = 32 * kWarps, kWarpsM = 2;
constexpr int kTilesM = kRows / kWarpsM / 16, kTilesN = kOutputs / (kWarps / kWarpsM) / 8;
constexpr int kStages = 3;  // 96 KB in bfloat16: two blocks on an SM of Hopper, one on one of Ampere

// A thread copies chunk threadIdx.x % kChunks of rows kChunkRows apart.
constexpr int kChunkRows = kThreads / kChunks;

// Weights of one tile of outputs: slices of all stages.
struct Bf16Stages {
  using Number = __nv_bfloat16;
  __nv_bfloat16* shared;  // (kStages, kOutputs, kSlice)

  static constexpr size_t SharedBytes(int) { return DynSharedBytes<__nv_bfloat16>(kStages * kOutputs * kSlice); }
  __device__ void Take(DynShared& dynamic, const GroupedLinear&) {
    shared = dynamic.Take<__nv_bfloat16>(kStages * kOutputs * kSlice);
  }
  __device__ void Begin(const GroupedLinear&, int64_t, int) {}
  __device__ void StartLoad(const GroupedLinear& op, int64_t first, int outputs, int column, int stage) const {
    const int chunk = threadIdx.x % kChunks, k = column + chunk * 8;
    const auto* data = static_cast<const __nv_bfloat16*>(op.w.data) + first * op.K + k;
#pragma unroll 2
    for (int i = 0; i < kOutputs / kChunkRows; ++i) {
      const int n = threadIdx.x / kChunks + i * kChunkRows;
      const bool valid = n < outputs && k < op.K;
      CopyAsync<16>(shared + stage * kOutputs * kSlice + ChunkAt(n, chunk),
                    valid ? data + static_cast<int64_t>(n) * op.K : data, valid);
    }
  }
  __device__ void Load(RightOperand& b, int n, int, int half, int stage, int lane) const {
    b.LoadBf16(shared + stage * kOutputs * kSlice, n + lane / 4, half, lane);
  }
};

struct Fp8Stages {
  uint8_t* shared;   // (kStages, kOutputs, kSlice)
  uint16_t* scales;  // (blocks, kOutputs): all that the tile needs, times 2^120

  __device__ static int Blocks(int columns) { return (columns + kFp8Block - 1) / kFp8Block; }
  static constexpr size_t SharedBytes(int blocks) {
    return DynSharedBytes<uint8_t>(kStages * kOutputs * kSlice) + DynSharedBytes<uint16_t>(blocks * kOutputs);
  }
  __device__ void Take(DynShared& dynamic, const GroupedLinear& op) {
    shared = dynamic.Take<uint8_t>(kStages * kOutputs * kSlice);
    scales = dynamic.Take<uint16_t>(Blocks(op.K) * kOutputs);
  }
  __device__ void Begin(const GroupedLinear& op, int64_t first, int outputs) {
    const int blocks = Blocks(op.K);
    for (int i = threadIdx.x; i < blocks * kOutputs; i += kThreads) {
      const int n = i / blocks, block = i % blocks;
      const uint32_t pair = n < outputs ? Fp8ScalePair(op.w, first + n, block * kFp8Block) : 0;
      scales[block * kOutputs + n] = static_cast<uint16_t>(pair);
    }
  }
  __device__ void StartLoad(const GroupedLinear& op, int64_t first, int outputs, int column, int stage) const {
    constexpr int kVectors = kSlice / 16, kVectorRows = kThreads / kVectors;
    const int vector = threadIdx.x % kVectors, k = column + vector * 16;
    const auto* data = static_cast<const uint8_t*>(op.w.data) + first * op.K + k;
#pragma unroll 2
    for (int i = 0; i < kOutputs / kVectorRows; ++i) {
      const int n = threadIdx.x / kVectors + i * kVectorRows;
      const bool valid = n < outputs && k < op.K;
      CopyAsync<16>(shared + stage * kOutputs * kSlice + HalfAt(n, vector / 2) + vector % 2 * 16,
                    valid ? data + static_cast<int64_t>(n) * op.K : data, valid);
    }
  }
  __device__ void Load(RightOperand& b, int n, int column, int half, int stage, int lane) const {
    const int row = n + lane / 4;
    const uint32_t scale = scales[column / kFp8Block * kOutputs + row];
    b.LoadFp8(shared + stage * kOutputs * kSlice, scale | scale << 16, row, half, lane);
  }
};

template <bool kSwiGlu, typename Weights>
__global__ void __launch_bounds__(kThreads, 2) WideLinearKernel(GroupedLinear op) {
  LAUNCH_BOUNDS(kThreads);
  static_assert(kRows == kThreads);
  SHARED_ARRAY(int, rows_of_x, kRows);
  DynShared dynamic;
  __nv_bfloat16* shared_x = dynamic.Take<__nv_bfloat16>(kStages * kRows * kSlice);
  Weights weights;
  weights.Take(dynamic, op);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const GroupedTile tile = FindTile(op, blockIdx.y, kRows, lane);
  if (tile.begin == tile.end) return;  // all of the block
  const int warp_m = warp % kWarpsM * kTilesM * 16, warp_n = warp / kWarpsM * kTilesN * 8;
  const int first_output = blockIdx.x * kOutputs, outputs = min(kOutputs, op.N - first_output);
  const int64_t first_weight = FirstWeight(op, tile.expert) + first_output;

  rows_of_x[threadIdx.x] = RowOfX(op, tile, threadIdx.x);
  __syncthreads();
  const int slices = (op.K + kSlice - 1) / kSlice;
  const auto start_load = [&](int slice, int stage) {
    if (slice < slices) {
      const int chunk = threadIdx.x % kChunks, k = slice * kSlice + chunk * 8;
      const auto* x = static_cast<const __nv_bfloat16*>(op.x);
#pragma unroll 2  // no more addresses at once than there are registers for
      for (int i = 0; i < kRows / kChunkRows; ++i) {
        const int m = threadIdx.x / kChunks + i * kChunkRows, row = rows_of_x[m];
        const bool valid = row >= 0 && k < op.K;
        CopyAsync<16>(shared_x + stage * kRows * kSlice + ChunkAt(m, chunk),
                      valid ? x + static_cast<int64_t>(row) * op.K + k : x, valid);
      }
      weights.StartLoad(op, first_weight, outputs, slice * kSlice, stage);
    }
    CopyAsyncCommit();  // also of nothing, so that groups count slices
  };

#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) start_load(slice, slice);
  weights.Begin(op, first_weight, outputs);
  float c[kTilesM][kTilesN][4] = {};
  int stage = 0;
  for (int slice = 0; slice < slices; ++slice) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // the slice is here for everybody, and nobody reads the one before, whose place is next
    start_load(slice + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
#pragma unroll 1  // the operands of both would not fit a thread's registers
    for (int half = 0; half < kSlice / 32; ++half) {
      LeftOperand<kTilesM> a;
      a.Load(shared_x + stage * kRows * kSlice, warp_m, half, lane);
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) {
        RightOperand b;
        weights.Load(b, warp_n + n * 8, slice * kSlice, half, stage, lane);
        MultiplyAdd(&c[0][n], kTilesN, a, b);
      }
    }
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  CopyAsyncWait<0>();  // of nothing
  StoreResults<kSwiGlu>(op, tile, warp_m, first_output + warp_n, c, lane);
}

template <typename Weights>
cudaError_t RunWith(const GroupedLinear& op, cudaStream_t stream) {
  constexpr size_t kXBytes = DynSharedBytes<__nv_bfloat16>(kStages * kRows * kSlice);
  constexpr size_t kMost = kXBytes + Weights::SharedBytes(GroupedLinearConfig::kWideBlocksMax);
  static_assert(kMost + kRows * sizeof(int) <= 99 << 10, "what a block has on GPUs of 8.6 and 8.9");
  const auto kernel = op.swiglu ? WideLinearKernel<true, Weights> : WideLinearKernel<false, Weights>;
  // Every time: it costs a microsecond, and these are launches of a prefill. As much every time: the limit is the
  // kernel's, so that a lower one would also hold for launches that a graph has kept.
  if (const cudaError_t error = AllowSharedBytes(kernel, kMost); error != cudaSuccess) return error;
  const dim3 grid((op.N + kOutputs - 1) / kOutputs, TilesMax(op, kRows));
  return Launch(kernel, grid, dim3(kThreads), kXBytes + Weights::SharedBytes(Fp8Blocks(op.K)), stream, op);
}

}  // namespace

cudaError_t RunWide(const GroupedLinear& op, cudaStream_t stream) {
  if (op.w.type != kFp8) return RunWith<Bf16Stages>(op, stream);
  if (Fp8Blocks(op.K) > GroupedLinearConfig::kWideBlocksMax) return cudaErrorInvalidConfiguration;
  return RunWith<Fp8Stages>(op, stream);
}

}  // namespace braid::gpu
