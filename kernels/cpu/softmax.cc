#include "kernels/softmax.h"

#include "kernels/cpu/level.h"

namespace braid {

bool BlockMaxima(const float* x, int n, float* maxima) { return ActiveCpuLevel().block_maxima(x, n, maxima); }

double Weigh(const SoftmaxWeights& weights, const float* x, int n, float* w) {
  return ActiveCpuLevel().weigh(weights, x, n, w);
}

void AddToBuckets(const SoftmaxWeights& weights, const float* x, int n, BucketSums* sums) {
  ActiveCpuLevel().add_to_buckets(weights, x, n, sums);
}

int FindInRange(const float* x, int n, float low, float high, int32_t* found) {
  return ActiveCpuLevel().find_in_range(x, n, low, high, found);
}

}  // namespace braid
