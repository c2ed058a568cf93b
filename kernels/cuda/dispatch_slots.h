#pragma once

#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/ptx_clock.h"

// What the kernels of dispatch.h share.

namespace braid::gpu {

// Slot `rank` of an array of slots of `slot_rows`.
template <typename Void>
__device__ __forceinline__ auto* SlotOf(const DispatchShape& shape, Void* array, int slot_rows, int rank) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const unsigned char, unsigned char>;
  return static_cast<Byte*>(array) + static_cast<int64_t>(rank) * slot_rows * shape.row_bytes;
}
// The (rows, K) experts of a row slot.
template <typename Byte>
__device__ __forceinline__ auto* ExpertsOf(Byte* slot) {
  using Expert = std::conditional_t<std::is_const_v<Byte>, const int16_t, int16_t>;
  return reinterpret_cast<Expert*>(slot + sizeof(DispatchHead));
}

__device__ __forceinline__ void WriteHead(const DispatchName& name, int kind, int rows, int results,
                                          DispatchFault trouble, void* slot) {
  DispatchHead head;
  head.step = *name.step;
  head.kind = kind;
  head.layer = name.layer;
  head.part = name.part;
  head.rows = rows;
  head.results = results;
  head.trouble = static_cast<int32_t>(trouble);
  *static_cast<DispatchHead*>(slot) = head;
}

__device__ __forceinline__ DispatchFault CheckHead(const DispatchName& name, int kind, const DispatchHead& head) {
  if (head.kind != kind) return DispatchFault::kHead;
  if (head.step != *name.step) return DispatchFault::kStep;
  if (head.layer != name.layer || head.part != name.part) return DispatchFault::kLayer;
  if (head.trouble == 0) return DispatchFault::kNone;
  return head.trouble == static_cast<int32_t>(DispatchFault::kShortOfRoom) ? DispatchFault::kShortOfRoom
                                                                           : DispatchFault::kComplaint;
}

__device__ __forceinline__ DispatchFault FaultOf(uint32_t word) { return static_cast<DispatchFault>(word % 256); }

// The first fault of a rank stays, but for what is not its fault. REQUIRES: one thread has the word.
__device__ __forceinline__ void Blame(DispatchFault fault, int layer, uint32_t* word) {
  const DispatchFault before = FaultOf(*word);
  if (before >= fault || before > DispatchFault::kComplaint) return;
  *word = static_cast<uint32_t>(fault) + 256 * static_cast<uint32_t>(layer);
}

// At the end of each block that lays out messages. REQUIRES: one thread of the block is here.
__device__ __forceinline__ void StampSent(ExchangeClock* clock) {
  atomicMax(&clock->sent_ns, ClockNs());  // the last block's
}
// Where messages are read first. REQUIRES: one thread of the launch is here.
__device__ __forceinline__ void AddExchange(ExchangeClock* clock) {
  const unsigned long long now = ClockNs(), sent = clock->sent_ns;
  if (now > sent) clock->exchanged_ns += now - sent;
}

// row_bytes from one row to another, by all threads of the block.
__device__ __forceinline__ void CopyRow(const void* from, void* to, int row_bytes) {
  for (int at = 16 * threadIdx.x; at < row_bytes; at += 16 * blockDim.x) {
    StoreVec(static_cast<unsigned char*>(to) + at, LoadVec<16>(static_cast<const unsigned char*>(from) + at));
  }
}

// The sum of the lanes below, and of all.
__device__ __forceinline__ int WarpExclusiveSum(int value, int lane, int* total) {
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int below = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += below;
  }
  *total = __shfl_sync(kAllLanes, sum, 31);
  return sum - value;
}

}  // namespace braid::gpu
