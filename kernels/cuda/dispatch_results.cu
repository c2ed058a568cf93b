#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/dispatch_slots.h"
#include "kernels/cuda/numbers.h"

// Both ends of the result slots.

namespace braid::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) SendResultsKernel(SendResults op) {
  LAUNCH_BOUNDS(kThreads);
  const DispatchShape& shape = op.shape;
  const int rank = blockIdx.y, results = op.counts[rank];
  unsigned char* slot = SlotOf(shape, rank == shape.rank ? op.received : op.send, shape.result_slot_rows, rank);
  for (int i = blockIdx.x; i < results; i += gridDim.x) {
    const int64_t row = op.row_of[op.asked[int64_t{rank} * shape.results + i]];
    CopyRow(static_cast<const unsigned char*>(op.y) + row * shape.row_bytes,
            slot + int64_t{shape.result_head_rows + i} * shape.row_bytes, shape.row_bytes);
  }
  if (threadIdx.x == 0) StampSent(op.clock);
  if (blockIdx.x != 0) return;
  // What went wrong with the rows is known to some ranks: each tells all.
  bool short_of_room = false, wrong = false;
  for (int other = threadIdx.x; other < shape.ranks; other += blockDim.x) {
    const DispatchFault fault = FaultOf(op.faults[other]);
    short_of_room |= fault == DispatchFault::kShortOfRoom;
    wrong |= fault >= DispatchFault::kComplaint;
  }
  short_of_room = __syncthreads_or(short_of_room);
  wrong = __syncthreads_or(wrong);
  const DispatchFault trouble = wrong           ? DispatchFault::kComplaint
                                : short_of_room ? DispatchFault::kShortOfRoom
                                                : DispatchFault::kNone;
  if (threadIdx.x == 0) WriteHead(op.name, DispatchHead::kResults, results, results, trouble, slot);
}

__global__ void __launch_bounds__(kThreads) ReceiveResultsKernel(ReceiveResults op) {
  LAUNCH_BOUNDS(kThreads);
  const DispatchShape& shape = op.shape;
  if (threadIdx.x == 0 && op.received != nullptr) AddExchange(op.clock);
  for (int rank = threadIdx.x; op.received != nullptr && rank < shape.ranks; rank += blockDim.x) {
    const DispatchHead& head =
        *reinterpret_cast<const DispatchHead*>(SlotOf(shape, op.received, shape.result_slot_rows, rank));
    DispatchFault fault = CheckHead(op.name, DispatchHead::kResults, head);
    const int results = op.counts[2 * rank + 1];
    if (fault == DispatchFault::kNone && (head.rows != results || head.results != results))
      fault = DispatchFault::kCounts;
    Blame(fault, op.name.layer, op.faults + rank);
  }
  for (int e = threadIdx.x; e < op.E; e += blockDim.x) op.expert_rows[e] += op.offsets[e + 1] - op.offsets[e];
}

}  // namespace

cudaError_t Run(const SendResults& op, const DispatchConfig& config, cudaStream_t stream) {
  return Launch(SendResultsKernel, dim3(config.blocks, op.shape.ranks),
                dim3(WarpsOf(op.shape.row_bytes / 16, kThreads)), 0, stream, op);
}

cudaError_t Run(const ReceiveResults& op, cudaStream_t stream) {
  return Launch(ReceiveResultsKernel, dim3(1), dim3(WarpsOf(op.E > op.shape.ranks ? op.E : op.shape.ranks, kThreads)),
                0, stream, op);
}

}  // namespace braid::gpu
