#include "kernels/choose_experts.h"

#include "kernels/exp.h"

namespace braid {
namespace {

// The index of the largest key not yet taken; the lower one on a tie, and some index also when keys are NaN.
int TakeBest(const float* keys, bool* taken, int E) {
  int best = -1;
  for (int e = 0; e < E; ++e)
    if (!taken[e] && (best < 0 || keys[e] > keys[best])) best = e;
  taken[best] = true;
  return best;
}

void ChooseForRow(const ChooseExperts& op, const float* logits, int32_t* experts, float* weights) {
  float scores[ChooseExperts::kExpertsMax], keys[ChooseExperts::kExpertsMax];
  bool taken[ChooseExperts::kExpertsMax] = {};
  for (int e = 0; e < op.E; ++e) {
    scores[e] = Sigmoid(logits[e]);
    keys[e] = op.bias == nullptr ? scores[e] : scores[e] + op.bias[e];
  }
  float sum = 0;
  for (int k = 0; k < op.K; ++k) {
    experts[k] = TakeBest(keys, taken, op.E);
    weights[k] = scores[experts[k]];
    sum += weights[k];
  }
  for (int k = 0; k < op.K; ++k) weights[k] = (op.normalize ? weights[k] / (sum + 1e-6f) : weights[k]) * op.scale;
}

}  // namespace

void Run(const ChooseExperts& op, ThreadPool& pool) {
  pool.ParallelFor(op.T, 16, [&](int begin, int end) {
    for (int64_t t = begin; t < end; ++t)
      ChooseForRow(op, op.logits + t * op.E, op.experts + t * op.K, op.weights + t * op.K);
  });
}

}  // namespace braid
