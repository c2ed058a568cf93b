#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

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

// What a logit weighs: 2^((x - max) * scale), within 2^-23 of itself and the rounding of that exponent; 0 if x is below
// logit_min, or that is below weight_min or 2^-126.
struct SoftmaxWeights {
  static float ScaleOf(float temperature);  // log2(e) / temperature, as far as there is a float for it

  float max = 0;                                           // of the row: no logit is above it
  float scale = 0;                                         // 0 gives every logit the weight 1
  float logit_min = std::numeric_limits<float>::lowest();  // leaves out -infinity
  float weight_min = 0;
};

// w[i] = the weight of x[i]. Returns their sum. REQUIRES: 0 <= n <= kLogitBlock, no NaN.
double Weigh(const SoftmaxWeights& weights, const float* x, int n, float* w);

// Divides the logits from `top` down to `low` evenly into buckets, the best first; what is lower is in the last one.
struct LogitBuckets {
  static constexpr int kCount = 2048;
  static LogitBuckets Between(float low, float top);

  // A higher logit is in the same or an earlier one. REQUIRES: x <= top.
  int Of(float x) const {
    const float down = std::max(1.0f - kCount, (x - top) * scale);  // in this order: the last one for NaN
    return static_cast<int>(std::bit_cast<uint32_t>(kMagic - down) & 0xFFFF);
  }

  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: a number added to it is rounded, and in the low bits
  float top = 0, scale = 0;
};

// Adds the weight of x[i] to sums[its bucket][i % 4]: four sums, so that one addition need not wait for the last.
// REQUIRES: as Weigh; buckets.top is weights.max.
using BucketSums = double[4];
void AddToBuckets(const SoftmaxWeights& weights, const LogitBuckets& buckets, const float* x, int n, BucketSums* sums);

// Writes the places of all low <= x[i] < high to `found`, ascending, and returns how many there are. REQUIRES: as
// Weigh; room for n.
int FindInRange(const float* x, int n, float low, float high, int32_t* found);

namespace ref {
double Weigh(const SoftmaxWeights& weights, const float* x, int n, double* w);
}

}  // namespace braid
