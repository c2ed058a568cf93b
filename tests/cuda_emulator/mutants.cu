// No include guard: mutants.cc has this once for each BUG_, in namespace MUTANT.

namespace simt::MUTANT {
namespace {

using braid::gpu::kAllLanes;
constexpr int kThreads = 64;

__global__ void __launch_bounds__(kThreads) RowSums(const float* x, float* out, int D) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, partial, kThreads / 32);
  const float* row = x + static_cast<int64_t>(blockIdx.x) * D;
#ifdef BUG_GLOBAL_OFF_BY_ONE
  const int end = D + 1;
#else
  const int end = D;
#endif
  float sum = 0;
  for (int d = threadIdx.x; d < end; d += kThreads) sum += row[d];
  sum = braid::gpu::WarpSum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
#ifndef BUG_DROPPED_BARRIER
  __syncthreads();
#endif
#ifdef BUG_SHARED_OFF_BY_ONE
  const float* parts = partial + 1;
#else
  const float* parts = partial;
#endif
  if (threadIdx.x == 0) out[blockIdx.x] = parts[0] + parts[1];
}

__global__ void __launch_bounds__(kThreads) TileSums(const float* x, float* out, int tiles) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, tile, kThreads);
  float sum = 0;
  for (int i = 0; i < tiles; ++i) {
    tile[threadIdx.x] = x[i * kThreads + threadIdx.x];
    __syncthreads();
    // Half a tile away: what the other warp wrote.
    const float other = braid::gpu::WarpSum(tile[(threadIdx.x + 32) % kThreads]);
    const float own = braid::gpu::WarpSum(tile[threadIdx.x]);
    sum += other + own - tile[threadIdx.x];
#ifndef BUG_DROPPED_BARRIER_BEFORE_REUSE
    __syncthreads();
#endif
  }
  out[threadIdx.x] = sum;
}

__global__ void ListOfLane0(int* best, int* out) {
  if (threadIdx.x == 0)
    for (int i = 0; i < 4; ++i) best[i] = i + 1;
#ifndef BUG_DROPPED_SYNCWARP
  __syncwarp();
#endif
  out[threadIdx.x] = best[threadIdx.x % 4];
}

__global__ void CopiedRows(const float* x, float* out, int rows) {
  SHARED_ARRAY(float, buffer, 2 * 32);
  braid::gpu::CopyAsync<4>(buffer + threadIdx.x, x + threadIdx.x);
  braid::gpu::CopyAsyncCommit();
  float sum = 0;
  for (int row = 0; row < rows; ++row) {
    const int next = (row + 1) % 2 * 32 + threadIdx.x;
    braid::gpu::CopyAsync<4>(buffer + next, x + (row + 1) * 32 + threadIdx.x, row + 1 < rows);
    braid::gpu::CopyAsyncCommit();
#ifndef BUG_DROPPED_COPY_WAIT
    braid::gpu::CopyAsyncWait<1>();
#endif
    __syncwarp();
    sum += buffer[row % 2 * 32 + 31 - threadIdx.x];
#ifndef BUG_COPY_OVER_WHAT_IS_READ
    __syncwarp();
#endif
  }
  out[threadIdx.x] = sum;
}

__global__ void BlockNumbers(int* out) {
#ifdef BUG_TWO_BLOCKS_ONE_WORD
  const int place = blockIdx.x / 2;
#else
  const int place = blockIdx.x;
#endif
  if (threadIdx.x == 0) out[place] = blockIdx.x;
}

__global__ void HandOff(int* flag, int* data, int* out) {
#ifdef BUG_RELAXED_FLAG
  constexpr auto kRaise = ::cuda::std::memory_order_relaxed;
#else
  constexpr auto kRaise = ::cuda::std::memory_order_release;
#endif
  ::cuda::atomic_ref<int, ::cuda::thread_scope_device> raised(*flag);
  if (threadIdx.x == 0) {
    *data = 42;
    raised.store(1, kRaise);
  }
  if (threadIdx.x == 32) {
    while (raised.load(::cuda::std::memory_order_acquire) == 0) __nanosleep(100);
    *out = *data;
  }
}

}  // namespace

extern const MutantKernels kKernels = {
    [](const float* x, float* out, int rows, int D) {
      Launch(RowSums, dim3(rows), dim3(kThreads), 0, nullptr, x, out, D);
    },
    [](const float* x, float* out, int tiles) { Launch(TileSums, dim3(1), dim3(kThreads), 0, nullptr, x, out, tiles); },
    [](int* best, int* out) { Launch(ListOfLane0, dim3(1), dim3(32), 0, nullptr, best, out); },
    [](const float* x, float* out, int rows) { Launch(CopiedRows, dim3(1), dim3(32), 0, nullptr, x, out, rows); },
    [](int* out, int blocks) { Launch(BlockNumbers, dim3(blocks), dim3(32), 0, nullptr, out); },
    [](int* flag, int* data, int* out) { Launch(HandOff, dim3(1), dim3(64), 0, nullptr, flag, data, out); },
};

}  // namespace simt::MUTANT

#undef MUTANT
