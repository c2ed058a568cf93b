#pragma once

#include "kernels/cuda/device.h"

// The order of a row's tokens, and where in it enough of them have come by. For blocks of kCutThreads.
//
// Nothing is sorted. Floats are integers in the same order, their ranks: each pass over the row adds what tokens weigh
// into kBins bins of the ranks that are still in question, best first, and leaves one bin in question, until that is a
// single rank. Weights are whole numbers: their sums are the same in any order, so atomics may make them.

namespace braid::gpu {

constexpr int kCutThreads = 256, kCutBits = 11, kCutBins = 1 << kCutBits;

// Higher for a higher number; -0 is 0. Not for NaN.
__device__ inline uint32_t RankOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float FloatOfRank(uint32_t rank) {
  return __uint_as_float((rank & 0x80000000u) != 0 ? rank & 0x7FFFFFFFu : ~rank);
}

// The last token that stays.
struct TokenCut {
  uint32_t rank;
  int token;

  __device__ bool Keeps(uint32_t other, int id) const { return other > rank || (other == rank && id <= token); }
};

// What CutSearch needs of shared memory.
struct CutScratch {
  unsigned long long* bins;       // (kCutBins)
  unsigned long long* warp_sums;  // (kCutThreads / 32)
  unsigned long long* found;      // (3): the bin that was found, the sum before it, and its own
  int* counts;                    // of the equal tokens in each kChunk of a row; may lie where bins do
};

// For a row of V logits. All of a block's threads do all of this; nobody may use the scratch from a call to the block's
// next barrier.
class CutSearch {
 public:
  static constexpr int kChunk = 256;

  __device__ CutSearch(const float* row, int V, const CutScratch& scratch) : row_(row), V_(V), scratch_(scratch) {}

  // What the tokens that `cut` keeps weigh.
  template <typename F>
  __device__ unsigned long long Sum(const TokenCut& cut, const F& weight) {
    unsigned long long sum = 0;
    for (int id = threadIdx.x; id < V_; id += kCutThreads)
      if (cut.Keeps(RankOf(row_[id]), id)) sum += weight(row_[id]);
    unsigned long long all;
    SumThroughThreads(sum, all);
    return all;
  }

  // Moves `cut` to the first token at which the weights of those that it keeps reach `need`, best first; if none does,
  // it stays. REQUIRES: need > 0, no token is above top.
  template <typename F>
  __device__ void MoveTo(unsigned long long need, uint32_t top, const F& weight, TokenCut& cut) {
    uint32_t high = top, low = cut.rank;
    int shift;
    do {
      const int bits = 32 - __clz(static_cast<int>(high - low));
      shift = max(0, bits - kCutBits);
      if (!FindBin(need, high, low, shift, weight, cut)) return;
      need -= scratch_.found[1];
      high -= static_cast<uint32_t>(scratch_.found[0]) << shift;
      const uint32_t others = (1u << shift) - 1;
      low = high - low > others ? high - others : low;
    } while (shift > 0);
    // Of the tokens with the rank `high`, as many as it takes.
    const unsigned long long each = weight(FloatOfRank(high));
    const int last = high == cut.rank ? cut.token : V_;
    // The quotient, rounded up: a division of 64 bits would be a call.
    int place = 0;
    for (int bit = 1 << 20; bit > 0; bit /= 2)
      if ((place + bit) * each < need) place += bit;
    ++place;
    cut = {high, place * each < scratch_.found[2] ? FindEqual(high, place) : last};
  }

 private:
  // Shared memory adds 32 bits by itself; 64 would be a loop for each of the lanes that want the same bin, and most do.
  // So who makes the lower half begin again carries one into the upper half.
  __device__ static void AddTo(unsigned long long& bin, unsigned long long weight) {
    unsigned* halves = reinterpret_cast<unsigned*>(&bin);
    const unsigned low = static_cast<unsigned>(weight), before = low == 0 ? 0 : atomicAdd(&halves[0], low);
    const unsigned high = static_cast<unsigned>(weight >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&halves[1], high);
  }

  // The sum of what the threads before this one have, and of all.
  __device__ unsigned long long SumThroughThreads(unsigned long long own, unsigned long long& all) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned long long through = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const unsigned long long left = __shfl_up_sync(kAllLanes, through, distance);
      if (lane >= distance) through += left;
    }
    __syncthreads();  // nobody reads the sums of the last time
    if (lane == 31) scratch_.warp_sums[warp] = through;
    __syncthreads();
    unsigned long long before = through - own;
    all = 0;
#pragma unroll
    for (int w = 0; w < kCutThreads / 32; ++w) {
      if (w < warp) before += scratch_.warp_sums[w];
      all += scratch_.warp_sums[w];
    }
    return before;
  }

  // Finds the bin, of those of 2^shift ranks from `high` down to `low`, in which the sum reaches `need`.
  template <typename F>
  __device__ bool FindBin(unsigned long long need, uint32_t high, uint32_t low, int shift, const F& weight,
                          const TokenCut& cut) {
    __syncthreads();  // nobody reads what was found the last time
    for (int bin = threadIdx.x; bin < kCutBins; bin += kCutThreads) scratch_.bins[bin] = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < V_; id += kCutThreads) {
      const uint32_t rank = RankOf(row_[id]);
      if (rank > high || rank < low || !cut.Keeps(rank, id)) continue;
      const unsigned long long heavy = weight(row_[id]);
      if (heavy != 0) AddTo(scratch_.bins[(high - rank) >> shift], heavy);
    }
    __syncthreads();
    constexpr int kEach = kCutBins / kCutThreads;
    unsigned long long own = 0, all;
#pragma unroll
    for (int i = 0; i < kEach; ++i) own += scratch_.bins[threadIdx.x * kEach + i];
    unsigned long long before = SumThroughThreads(own, all);
    if (before < need && need <= before + own) {
      int bin = threadIdx.x * kEach;
      while (before + scratch_.bins[bin] < need) before += scratch_.bins[bin++];
      scratch_.found[0] = bin, scratch_.found[1] = before, scratch_.found[2] = scratch_.bins[bin];
    }
    __syncthreads();
    return need <= all;
  }

  // The token in this place, from 1, among those of the rank. REQUIRES: there are as many.
  __device__ int FindEqual(uint32_t rank, int place) {
    const int lane = threadIdx.x % 32, chunks = (V_ + kChunk - 1) / kChunk;
    const auto equal = [&](int id) {
      return __ballot_sync(kAllLanes, id < V_ && RankOf(row_[min(id, V_ - 1)]) == rank);
    };
    for (int chunk = threadIdx.x / 32; chunk < chunks; chunk += kCutThreads / 32) {
      int count = 0;
      for (int at = 0; at < kChunk; at += 32) count += __popc(equal(chunk * kChunk + at + lane));
      if (lane == 0) scratch_.counts[chunk] = count;
    }
    __syncthreads();
    int chunk = 0;
    while (place > scratch_.counts[chunk]) place -= scratch_.counts[chunk++];
    for (int id = chunk * kChunk;; id += 32) {
      unsigned lanes = equal(id + lane);
      if (place > __popc(lanes)) {
        place -= __popc(lanes);
        continue;
      }
      for (; place > 1; --place) lanes &= lanes - 1;
      return id + __ffs(static_cast<int>(lanes)) - 1;
    }
  }

  const float* row_;
  int V_;
  CutScratch scratch_;
};

}  // namespace braid::gpu
