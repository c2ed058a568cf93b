#include "kernels/cuda/device.h"
#include "kernels/cuda/draw_tokens.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/token_cut.h"

// A block has a row, a warp its blocks of kBlock logits, a lane eight neighbours of each. First for the highest logit;
// then, if that is asked for, for where to cut the row off; then, to draw, for the sum of weights of each block. The
// sums are added up by ascending block, in double, as far as the one where the token is, and there by lanes.

namespace braid::gpu {
namespace {

constexpr int kThreads = kCutThreads, kWarps = kThreads / 32, kBlock = 256;
static_assert(kBlock == CutSearch::kChunk);

struct Best {
  float logit;
  int token;
  __device__ bool Before(const Best& other) const {
    return logit > other.logit || (logit == other.logit && token < other.token);
  }
};

struct Weights {
  float max, scale, min_share;
  TokenCut cut;
  // Of eight neighbours, from `token` on.
  __device__ double Sum(const Floats<8>& logits, int token) const {
    double sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += static_cast<double>(Of(logits[i], token + i));
    return sum;
  }
  __device__ float Of(float logit, int token) const {
    const float weight = exp2f((logit - max) * scale);
    return weight < min_share || !cut.Keeps(RankOf(logit), token) ? 0 : weight;
  }
};

// Those of a lane; -infinity behind the end.
__device__ inline Floats<8> LoadLogits(const float* row, int V, int block, int lane) {
  const int at = block * kBlock + lane * 8;
  if (at < V) return LoadFloats<8>(row + at);
  Floats<8> none;
#pragma unroll
  for (int i = 0; i < 8; ++i) none[i] = -INFINITY;
  return none;
}

// The first token, by id, at which the sums of weights exceed `share` of all; `best` if rounding finds none. For a
// warp.
__device__ inline int Draw(const float* row, int V, const Weights& weights, const double* sums, int blocks,
                           double share, int best, int lane) {
  double total = 0;
  for (int b = 0; b < blocks; ++b) total += sums[b];
  const double target = share * total;
  double before = 0;
  int block = 0;
  while (block < blocks && before + sums[block] <= target) before += sums[block++];
  if (block == blocks) return best;
  const Floats<8> logits = LoadLogits(row, V, block, lane);
  const int first = block * kBlock + lane * 8;
  const double own = weights.Sum(logits, first);
  double through = own;  // of the block, up to and with this lane
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const double left = __shfl_up_sync(kAllLanes, through, distance);
    if (lane >= distance) through += left;
  }
  double sum = __shfl_up_sync(kAllLanes, through, 1);
  sum = before + (lane == 0 ? 0 : sum);
  int found = -1, last = -1;  // last: with any weight
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float weight = weights.Of(logits[i], first + i);
    if (weight == 0) continue;
    sum += static_cast<double>(weight);
    last = first + i;
    if (found < 0 && sum > target) found = last;
  }
  const unsigned lanes = __ballot_sync(kAllLanes, found >= 0);
  if (lanes != 0) return __shfl_sync(kAllLanes, found, __ffs(static_cast<int>(lanes)) - 1);
  const unsigned weighty = __ballot_sync(kAllLanes, last >= 0);  // only rounding leads to the block's end
  return weighty == 0 ? best : __shfl_sync(kAllLanes, last, 31 - __clz(static_cast<int>(weighty)));
}

// At least two blocks on an SM: nvcc would spill registers for one more.
template <bool kCuts>
__global__ void __launch_bounds__(kThreads, 2) DrawTokensKernel(DrawTokens op) {
  LAUNCH_BOUNDS(kThreads);
  SHARED_ARRAY(float, best_logits, kWarps);
  SHARED_ARRAY(int, best_tokens, kWarps);
  DynShared shared;
  const int blocks = (op.V + kBlock - 1) / kBlock;
  double* sums = shared.Take<double>(kCuts ? max(blocks, kCutBins) : blocks);
  const int64_t t = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* row = op.logits + t * op.V;

  Best best{-INFINITY, op.V};
  bool is_nan = false;
  for (int b = warp; b < blocks; b += kWarps) {
    const Floats<8> logits = LoadLogits(row, op.V, b, lane);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const Best candidate{logits[i], b * kBlock + lane * 8 + i};
      is_nan = is_nan || logits[i] != logits[i];
      if (candidate.Before(best)) best = candidate;
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, best.logit, distance),
                     __shfl_xor_sync(kAllLanes, best.token, distance)};
    if (other.Before(best)) best = other;
  }
  if (lane == 0) best_logits[warp] = best.logit, best_tokens[warp] = best.token;
  const bool any_nan = __syncthreads_or(is_nan) != 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const Best other{best_logits[w], best_tokens[w]};
    if (other.Before(best)) best = other;
  }

  const bool valid = !any_nan && best.logit > -INFINITY && best.logit < INFINITY;
  const float temperature = op.temperature[t];
  int token = valid ? best.token : -1;
  if (valid && temperature > 0) {  // so for all of the block
    const float scale = fminf(1.44269504f / temperature, 3e38f);
    TokenCut cut{0, op.V};
    if constexpr (kCuts) {
      SHARED_ARRAY(unsigned long long, warp_sums, kWarps);
      SHARED_ARRAY(unsigned long long, found, 3);
      CutSearch search(row, op.V,
                       {reinterpret_cast<unsigned long long*>(sums), warp_sums, found, reinterpret_cast<int*>(sums)});
      const uint32_t top = RankOf(best.logit);
      const int top_k = op.top_k == nullptr ? 0 : op.top_k[t];
      const float top_p = op.top_p == nullptr ? 1 : op.top_p[t];
      if (top_k > 0 && top_k < op.V) {
        const auto one = [](float logit) { return logit == -INFINITY ? 0ull : 1ull; };
        search.MoveTo(top_k, top, one, cut);
      }
      if (top_p < 1) {
        const auto weight = [&](float logit) {
          return static_cast<unsigned long long>(exp2f((logit - best.logit) * scale) * 0x1p43f);
        };
        const double need = ceil(static_cast<double>(top_p) * static_cast<double>(search.Sum(cut, weight)));
        search.MoveTo(need < 1 ? 1 : static_cast<unsigned long long>(need), top, weight, cut);
      }
      __syncthreads();  // nobody uses the scratch any more
    }
    const Weights weights{best.logit, scale, op.min_share == nullptr ? 0 : op.min_share[t], cut};
    for (int b = warp; b < blocks; b += kWarps) {
      double sum = weights.Sum(LoadLogits(row, op.V, b, lane), b * kBlock + lane * 8);
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
      if (lane == 0) sums[b] = sum;
    }
    __syncthreads();
    if (warp == 0) token = Draw(row, op.V, weights, sums, blocks, op.uniform[t], best.token, lane);
  }
  if (threadIdx.x == 0) op.tokens[t] = token;
}

}  // namespace

cudaError_t Run(const DrawTokens& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  const bool cuts = op.top_k != nullptr || op.top_p != nullptr;
  const int blocks = (op.V + kBlock - 1) / kBlock;
  const size_t shared_bytes = DynSharedBytes<double>(cuts && blocks < kCutBins ? kCutBins : blocks);
  return Launch(cuts ? DrawTokensKernel<true> : DrawTokensKernel<false>, dim3(op.T), dim3(kThreads), shared_bytes,
                stream, op);
}

}  // namespace braid::gpu
