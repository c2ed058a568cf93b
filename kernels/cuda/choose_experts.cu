#include "kernels/cuda/choose_experts.h"
#include "kernels/cuda/device.h"

// A warp has a row; lane l has the experts l, l + 32, ... in registers. K times, the lanes agree on the best one left.

namespace braid::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kTaken = 0x7FFFFFFF;  // an index behind all others

struct Candidate {
  float key;
  int expert;
  __device__ bool Before(const Candidate& other) const {
    return key > other.key || (key == other.key && expert < other.expert);
  }
};

__device__ inline Candidate BestOfWarp(Candidate best) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.key, distance),
                          __shfl_xor_sync(kAllLanes, best.expert, distance)};
    if (other.Before(best)) best = other;
  }
  return best;
}

// kEach: experts of a lane.
template <int kEach>
__global__ void __launch_bounds__(32 * kWarps) ChooseExpertsKernel(ChooseExperts op) {
  LAUNCH_BOUNDS(32 * kWarps);
  const int lane = threadIdx.x % 32;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= op.T) return;
  float scores[kEach], keys[kEach];
  unsigned left = 0;  // bit i: expert i * 32 + lane is there and not taken
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int expert = i * 32 + lane;
    scores[i] = keys[i] = 0;
    if (expert >= op.E) continue;
    left |= 1u << i;
    scores[i] = 1 / (1 + expf(-op.logits[t * op.E + expert]));
    const float key = op.bias == nullptr ? scores[i] : scores[i] + op.bias[expert];
    keys[i] = key == key ? key : -INFINITY;
  }
  float sum = 0, mine = 0;  // the lane's own: of the lane'th choice
  int chosen = 0;
  for (int k = 0; k < op.K; ++k) {
    Candidate best{-INFINITY, kTaken};
    float score = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Candidate candidate{keys[i], i * 32 + lane};
      if ((left >> i & 1) == 0 || !candidate.Before(best)) continue;
      best = candidate;
      score = scores[i];
    }
    const Candidate first = BestOfWarp(best);
    if (first.expert % 32 == lane) left &= ~(1u << first.expert / 32);
    score = __shfl_sync(kAllLanes, score, first.expert % 32);
    sum += score;
    if (k == lane) mine = score, chosen = first.expert;
  }
  if (lane >= op.K) return;
  const bool padding = op.positions != nullptr && op.positions[t] < 0;
  op.experts[t * op.K + lane] = padding ? -1 : chosen;
  op.weights[t * op.K + lane] = (op.normalize ? mine / (sum + 1e-6f) : mine) * op.scale;
}

}  // namespace

cudaError_t Run(const ChooseExperts& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  const auto kernel = op.E <= 32    ? ChooseExpertsKernel<1>
                      : op.E <= 64  ? ChooseExpertsKernel<2>
                      : op.E <= 256 ? ChooseExpertsKernel<8>
                                    : ChooseExpertsKernel<32>;
  return Launch(kernel, dim3((op.T + kWarps - 1) / kWarps), dim3(32 * kWarps), 0, stream, op);
}

}  // namespace braid::gpu
