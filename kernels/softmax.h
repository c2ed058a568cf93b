#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/exp.h"

// Softmax over one row of logits, as long as a vocabulary, read in blocks so that whoever looks for something in it can
// leave out the blocks that cannot have it. The same bits on every level: sums are in double, value i of a block goes
// to lane i % 16, and the lanes are folded halves onto halves.
//
// Nothing here allocates or uses other threads: rows are what a step does in parallel.

namespace braid {

inline constexpr int kLogitBlock = 256;

inline int LogitBlocks(int n) { return (n + kLogitBlock - 1) / kLogitBlock; }

// The maximum of each of the LogitBlocks(n) blocks of x; with a NaN among them, of some. True if every value is finite.
bool BlockMaxima(const float* x, int n, float* maxima);

// What a logit weighs: e^((x - max) * inverse_temperature), within 4 ulp and the rounding of that argument; 0 if x is
// below logit_min or that is below weight_min. Below e^-87.3 it is 0.
struct SoftmaxWeights {
  float max = 0;  // of the row: no logit is above it
  // 1 / temperature, or how far that is representable; 0 gives every logit the weight 1.
  float inverse_temperature = 1;
  float logit_min = -std::numeric_limits<float>::max();  // leaves out -infinity
  float weight_min = 0;

  // A bucket has logits of about the same weight; a higher logit is in the same or an earlier one. The last one is for
  // all whose argument, by bucket_scale in place of inverse_temperature, is below -87.5: they weigh nothing.
  static constexpr int kBuckets = 2801;
  static constexpr float kBucketsPerUnit = 32;
  float bucket_scale = 1;  // > 0

  float Weight(float x) const {
    const float weight = Exp((x - max) * inverse_temperature);
    return x < logit_min || weight < weight_min ? 0.0f : weight;
  }
  int Bucket(float x) const {
    const float down = std::max((x - max) * bucket_scale * kBucketsPerUnit, 1.0f - kBuckets);
    return static_cast<int>(std::bit_cast<uint32_t>(12582912.0f - down) & 0xFFFF);
  }
};

// w[i] = the weight of x[i]. Returns their sum. REQUIRES: 0 <= n <= kLogitBlock, no NaN.
double Weigh(const SoftmaxWeights& weights, const float* x, int n, float* w);

// Adds the weight of x[i] to sums[bucket][i % 4]: four sums, so that one addition need not wait for the last.
// REQUIRES: as Weigh.
using BucketSums = double[4];
void AddToBuckets(const SoftmaxWeights& weights, const float* x, int n, BucketSums* sums);

// Writes the places of all low <= x[i] < high to `found`, ascending, and returns how many there are. REQUIRES: as
// Weigh; room for n.
int FindInRange(const float* x, int n, float low, float high, int32_t* found);

namespace ref {
double Weigh(const SoftmaxWeights& weights, const float* x, int n, double* w);
}

}  // namespace braid
