#include "kernels/cuda/device.h"
#include "kernels/cuda/group_rows.h"

// A stable counting sort in one block: each warp counts the experts in a stretch of the pairs; the counts, read by
// expert and then by warp, become the row where each warp's first pair of an expert goes; each warp walks its stretch
// again and hands them out.

namespace braid::gpu {
namespace {

// Calls f(pair, expert, lanes of this expert) for a warp's pairs [begin, end), 32 at a time. Expert -1 stands for
// pairs behind the end as well.
template <typename F>
__device__ void ForPairs(const int32_t* experts, int64_t begin, int64_t end, int lane, const F& f) {
  for (int64_t at = begin; at < end; at += 32) {
    const int64_t pair = at + lane;
    const int expert = pair < end ? max(-1, experts[pair]) : -1;
    f(pair, expert, __match_any_sync(kAllLanes, expert));
  }
}

template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps, 1) GroupRowsKernel(GroupRows op) {
  LAUNCH_BOUNDS(32 * kWarps);
  DynShared shared;
  int* counts = shared.Take<int>(kWarps * op.E);  // (E, kWarps)
  int* totals = shared.Take<int>(op.E);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t pairs = static_cast<int64_t>(op.T) * op.K;
  const int64_t stretch = (pairs + kWarps - 1) / kWarps;
  const int64_t begin = min(pairs, warp * stretch), end = min(pairs, begin + stretch);

  for (int i = threadIdx.x; i < kWarps * op.E; i += 32 * kWarps) counts[i] = 0;
  __syncthreads();
  ForPairs(op.experts, begin, end, lane, [&](int64_t, int expert, unsigned same) {
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1) counts[expert * kWarps + warp] += __popc(same);
    __syncwarp();
  });
  __syncthreads();
  for (int e = threadIdx.x; e < op.E; e += 32 * kWarps) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += counts[e * kWarps + w];
    totals[e] = sum;
    if (op.counted != nullptr) op.counted[e] += static_cast<uint64_t>(sum);
  }
  __syncthreads();
  if (warp == 0) {  // totals become offsets
    int before = 0;
    for (int at = 0; at < op.E; at += 32) {
      int sum = at + lane < op.E ? totals[at + lane] : 0;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int left = __shfl_up_sync(kAllLanes, sum, distance);
        if (lane >= distance) sum += left;
      }
      const int offset = __shfl_up_sync(kAllLanes, sum, 1);
      if (at + lane < op.E) {
        totals[at + lane] = before + (lane == 0 ? 0 : offset);
        op.offsets[at + lane] = totals[at + lane];
      }
      before += __shfl_sync(kAllLanes, sum, 31);
    }
    if (lane == 0) op.offsets[op.E] = before;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < op.E; e += 32 * kWarps) {
    int next = totals[e];
    for (int w = 0; w < kWarps; ++w) {
      const int count = counts[e * kWarps + w];
      counts[e * kWarps + w] = next;
      next += count;
    }
  }
  __syncthreads();
  ForPairs(op.experts, begin, end, lane, [&](int64_t pair, int expert, unsigned same) {
    int row = -1;
    if (expert >= 0) row = counts[expert * kWarps + warp] + __popc(same & ((1u << lane) - 1));
    __syncwarp();  // all have read
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1) counts[expert * kWarps + warp] += __popc(same);
    __syncwarp();
    if (pair >= end) return;
    op.row_of[pair] = row;
    if (row >= 0) op.source[row] = static_cast<int32_t>(pair / op.K);
  });
}

template <int kWarps>
cudaError_t RunWith(const GroupRows& op, cudaStream_t stream) {
  const size_t bytes = DynSharedBytes<int>(kWarps * op.E) + DynSharedBytes<int>(op.E);
  return Launch(GroupRowsKernel<kWarps>, dim3(1), dim3(32 * kWarps), bytes, stream, op);
}

}  // namespace

cudaError_t Run(const GroupRows& op, const GroupRowsConfig& config, cudaStream_t stream) {
  switch (config.warps) {
    case 1:
      return RunWith<1>(op, stream);
    case 4:
      return RunWith<4>(op, stream);
    case 8:
      return RunWith<8>(op, stream);
    case 32:
      return RunWith<32>(op, stream);
    default:
      return cudaErrorInvalidConfiguration;
  }
}

}  // namespace braid::gpu
