#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/dispatch_slots.h"
#include "kernels/cuda/numbers.h"

// Both ends of the row slots. A block has one rank, and a lane one row: what the row asks of the rank is a mask of its
// choices. Each warp counts the rows and choices in a stretch of all rows; with the sums of the warps before it, it
// walks its stretch again and gives each its place. So places are in the order of rows, whatever runs when.

namespace braid::gpu {
namespace {

constexpr int kCopyThreads = 256;

// Calls f(row, rows before it that ask, results before it) for `count` rows, 32 at a time, -1 standing for no row;
// mask_of(row) has the choices of a row. Returns what they come to: {rows, results}. REQUIRES: all threads of the block
// are here.
struct Places {
  int rows, results;
};
template <int kWarps, typename MaskOf, typename F>
__device__ __forceinline__ Places PlaceInOrder(int count, const MaskOf& mask_of, const F& f) {
  SHARED_ARRAY(Places, warp_places, kWarps);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int stretch = (count + 32 * kWarps - 1) / (32 * kWarps) * 32;
  const int begin = min(count, warp * stretch), end = min(count, begin + stretch);
  Places mine{0, 0};
  for (int at = begin; at < end; at += 32) {
    const unsigned mask = at + lane < end ? mask_of(at + lane) : 0;
    mine.rows += mask != 0;
    mine.results += __popc(mask);
  }
  mine.rows = __reduce_add_sync(kAllLanes, mine.rows);
  mine.results = __reduce_add_sync(kAllLanes, mine.results);
  if (lane == 0) warp_places[warp] = mine;
  __syncthreads();
  Places next{0, 0}, all{0, 0};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) next = all;
    all.rows += warp_places[w].rows;
    all.results += warp_places[w].results;
  }
  for (int at = begin; at < end; at += 32) {
    const int row = at + lane < end ? at + lane : -1;
    const unsigned mask = row >= 0 ? mask_of(row) : 0;
    const unsigned asking = __ballot_sync(kAllLanes, mask != 0);
    int results;
    const int results_before = WarpExclusiveSum(__popc(mask), lane, &results);
    f(row, mask, Places{next.rows + __popc(asking & ((1u << lane) - 1)), next.results + results_before}, all);
    next.rows += __popc(asking);
    next.results += results;
  }
  return all;
}

// Who computes choice k of row t; -1: nobody.
__device__ __forceinline__ int RankOf(const SendRows& op, int t, int expert) {
  if (expert < 0 || expert >= op.E) return -1;
  const int first = op.first_replica[expert], count = op.first_replica[expert + 1] - first;
  if (count <= 0) return -1;
  // Ranks that all have few rows begin at different replicas.
  return op.replicas[first + (count == 1 ? 0 : (t + op.shape.rank) % count)];
}

template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps, 1) PlaceRowsKernel(SendRows op) {
  LAUNCH_BOUNDS(32 * kWarps);
  const DispatchShape& shape = op.shape;
  const int rank = blockIdx.x, K = shape.K;
  unsigned char* slot = SlotOf(shape, rank == shape.rank ? op.received : op.send, shape.slot_rows, rank);
  int16_t* slot_experts = ExpertsOf(slot);
  const auto ranks_mask = [&](int t, int whom) {
    unsigned mask = 0;
    for (int k = 0; k < K; ++k) mask |= RankOf(op, t, op.experts[int64_t{t} * K + k]) == whom ? 1u << k : 0;
    return mask;
  };
  const auto fits = [&](const Places& all) { return all.rows <= shape.rows && all.results <= shape.results; };
  const Places all = PlaceInOrder<kWarps>(
      op.T, [&](int t) { return ranks_mask(t, rank); },
      [&](int t, unsigned mask, Places place, const Places& total) {
        if (t < 0) return;
        int32_t* row_of = op.row_of + int64_t{t} * K;
        const unsigned nobodys = rank == 0 ? ranks_mask(t, -1) : 0;
        const bool sent = mask != 0 && fits(total);
        if (sent) op.tokens[int64_t{rank} * shape.rows + place.rows] = t;
        for (int k = 0; k < K; ++k) {
          const bool asked = mask >> k & 1;
          if (sent)
            slot_experts[place.rows * K + k] = static_cast<int16_t>(asked ? op.experts[int64_t{t} * K + k] : -1);
          if (nobodys >> k & 1 || (asked && !sent)) row_of[k] = -1;
          if (sent && asked) row_of[k] = rank * shape.result_slot_rows + shape.result_head_rows + place.results++;
        }
      });
  if (threadIdx.x != 0) return;
  const bool short_of_room = !fits(all);
  const int rows = short_of_room ? 0 : all.rows, results = short_of_room ? 0 : all.results;
  op.counts[2 * rank] = rows;
  op.counts[2 * rank + 1] = results;
  WriteHead(op.name, DispatchHead::kRows, rows, results,
            short_of_room ? DispatchFault::kShortOfRoom : DispatchFault::kNone, slot);
  StampSent(op.clock);
}

__global__ void __launch_bounds__(kCopyThreads) CopyRowsKernel(SendRows op) {
  LAUNCH_BOUNDS(kCopyThreads);
  const DispatchShape& shape = op.shape;
  const int rank = blockIdx.y, rows = op.counts[2 * rank];
  unsigned char* slot = SlotOf(shape, rank == shape.rank ? op.received : op.send, shape.slot_rows, rank);
  for (int i = blockIdx.x; i < rows; i += gridDim.x) {
    const int64_t token = op.tokens[int64_t{rank} * shape.rows + i];
    CopyRow(static_cast<const unsigned char*>(op.x) + token * shape.row_bytes,
            slot + int64_t{shape.head_rows + i} * shape.row_bytes, shape.row_bytes);
  }
  if (threadIdx.x == 0) StampSent(op.clock);
}

template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps, 1) ReceiveRowsKernel(ReceiveRows op) {
  LAUNCH_BOUNDS(32 * kWarps);
  const DispatchShape& shape = op.shape;
  const int rank = blockIdx.x, K = shape.K;
  if (rank == 0 && threadIdx.x == 0) AddExchange(op.clock);
  const unsigned char* slot = SlotOf(shape, op.received, shape.slot_rows, rank);
  const int16_t* slot_experts = ExpertsOf(slot);
  const DispatchHead& head = *reinterpret_cast<const DispatchHead*>(slot);
  DispatchFault fault = CheckHead(op.name, DispatchHead::kRows, head);
  if (fault == DispatchFault::kNone &&
      (head.rows < 0 || head.rows > shape.rows || head.results < 0 || head.results > shape.results)) {
    fault = DispatchFault::kCounts;
  }
  if (fault == DispatchFault::kNone && op.announced != nullptr) {
    const int32_t* said = op.announced + 2 * (int64_t{rank} * shape.ranks + shape.rank);
    if (head.rows != said[0] || head.results != said[1]) fault = DispatchFault::kCounts;
  }
  const int rows = fault == DispatchFault::kNone ? head.rows : 0;
  const int results = fault == DispatchFault::kNone ? head.results : 0;
  SHARED_ARRAY(unsigned, here, DispatchShape::kExpertsMax / 32);  // a bit for each expert
  for (int e = threadIdx.x; e < (op.E + 31) / 32 * 32; e += 32 * kWarps) {
    const bool is_here =
        e < op.E && op.first_replica[e] < op.first_replica[e + 1] && op.replicas[op.first_replica[e]] == shape.rank;
    const unsigned bits = __ballot_sync(kAllLanes, is_here);
    if (e % 32 == 0) here[e / 32] = bits;
  }
  __syncthreads();
  bool strange = false;
  const Places all = PlaceInOrder<kWarps>(
      shape.slot_rows,
      [&](int i) {
        unsigned mask = 0;
        const int row = i - shape.head_rows;
        if (row < 0 || row >= rows) return mask;
        for (int k = 0; k < K; ++k) {
          const int expert = slot_experts[row * K + k];
          const bool is_here = expert >= 0 && expert < op.E && (here[expert / 32] >> (expert % 32) & 1);
          mask |= is_here ? 1u << k : 0;
          strange |= !is_here && expert != -1;
        }
        return mask;
      },
      [&](int i, unsigned mask, Places place, const Places&) {
        if (i < 0) return;
        const int64_t first = (int64_t{rank} * shape.slot_rows + i) * K;
        for (int k = 0; k < K; ++k) {
          const bool asked = (mask >> k & 1) && place.results < results;
          op.experts[first + k] = asked ? slot_experts[(i - shape.head_rows) * K + k] : -1;
          if (asked) op.asked[int64_t{rank} * shape.results + place.results++] = static_cast<int32_t>(first + k);
        }
      });
  strange = __syncthreads_or(strange);
  if (threadIdx.x != 0) return;
  op.counts[rank] = min(all.results, results);
  if (fault == DispatchFault::kNone && strange) fault = DispatchFault::kExperts;
  if (fault == DispatchFault::kNone && all.results != head.results) fault = DispatchFault::kCounts;
  Blame(fault, op.name.layer, op.faults + rank);
}

}  // namespace

cudaError_t Run(const SendRows& op, const DispatchConfig& config, cudaStream_t stream) {
  const auto place = config.warps == 1   ? PlaceRowsKernel<1>
                     : config.warps == 2 ? PlaceRowsKernel<2>
                                         : PlaceRowsKernel<8>;
  const cudaError_t placed = Launch(place, dim3(op.shape.ranks), dim3(32 * config.warps), 0, stream, op);
  if (placed != cudaSuccess || op.T == 0) return placed;
  return Launch(CopyRowsKernel, dim3(config.blocks, op.shape.ranks),
                dim3(WarpsOf(op.shape.row_bytes / 16, kCopyThreads)), 0, stream, op);
}

cudaError_t Run(const ReceiveRows& op, const DispatchConfig& config, cudaStream_t stream) {
  const auto kernel = config.warps == 1   ? ReceiveRowsKernel<1>
                      : config.warps == 2 ? ReceiveRowsKernel<2>
                                          : ReceiveRowsKernel<8>;
  return Launch(kernel, dim3(op.shape.ranks), dim3(32 * config.warps), 0, stream, op);
}

}  // namespace braid::gpu
