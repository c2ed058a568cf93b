#pragma once

#include <memory>
#include <vector>

#include "base/ids.h"
#include "expert_worker/top_tokens.h"
#include "kernels/softmax.h"

namespace braid {

// The distribution over a row's tokens at a temperature, what is cut off from it, and a draw. Where a cut lies is a
// token: the last one that stays, in the order of Before.
//
// Nothing is ever sorted. A mass is found by adding the weights into buckets, best first: the bucket where it is
// reached has few tokens, and among these a search by halves finds the one. The draw goes by id, over the sums of the
// blocks and then within a block. All sums have a fixed order, so that a draw is a function of the logits and the
// parameters alone. Keeps its memory from row to row.
class TokenDraw {
 public:
  // `row` must outlive the use of *this. REQUIRES: temperature > 0, row->max() is finite.
  void Start(LogitRow* row, float temperature);

  // Keeps the first `count` tokens.
  void KeepBest(size_t count);
  // Then the fewest of those that have `share` of their mass. REQUIRES: 0 < share < 1.
  void KeepMass(double share);
  // Draws one of the rest that have at least `min_share` of the best token's probability: the first, by id, at which
  // the sum of probabilities exceeds `uniform`. REQUIRES: min_share <= 1, 0 <= uniform < 1.
  TokenId Draw(float min_share, double uniform);

 private:
  // Calls f(weights, part of the block) for the part of it in which equal to the cut is enough, and for the rest.
  template <typename F>
  void ForParts(int b, SoftmaxWeights weights, const F& f) const;
  double WeighBlock(int b, float* w) const;
  // Weighs the blocks that reach `floor` into sums_. Returns the sum.
  double WeighBlocks(float floor);
  // Cuts at the first token where the sum of weights reaches `need`; nowhere if none does. Those below `floor` may be
  // left out.
  void CutWhereReached(const SoftmaxWeights& weights, double need, float floor);
  // The same, among candidates_.
  void CutAtCandidate(const SoftmaxWeights& weights, double need);
  // A logit below all that have at least this weight.
  float LogitBelow(double weight) const;

  LogitRow* row_ = nullptr;
  SoftmaxWeights weights_;
  ScoredToken cut_;
  std::vector<double> sums_;  // of the blocks
  std::unique_ptr<BucketSums[]> buckets_;
  std::vector<ScoredToken> candidates_;
};

}  // namespace braid
