#include "expert_worker/token_draw.h"

#include <bit>
#include <cmath>
#include <limits>

namespace braid {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Integers in the order of the floats, and back.
int32_t Rank(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}
float FloatOfRank(int32_t rank) { return std::bit_cast<float>(rank < 0 ? rank ^ 0x7FFFFFFF : rank); }

// The lowest logit in `bucket` or an earlier one. REQUIRES: bucket >= 0.
float LowestInBucket(const SoftmaxWeights& weights, int bucket) {
  int64_t low = Rank(kLowest), high = Rank(weights.max);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (weights.Bucket(FloatOfRank(static_cast<int32_t>(middle))) <= bucket) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return FloatOfRank(static_cast<int32_t>(low));
}

float MedianLogit(const ScoredToken& a, const ScoredToken& b, const ScoredToken& c) {
  return std::max(std::min(a.logit, b.logit), std::min(std::max(a.logit, b.logit), c.logit));
}

}  // namespace

void TokenDraw::Start(LogitRow* row, float temperature) {
  row_ = row;
  const float inverse = std::min(1 / temperature, std::numeric_limits<float>::max());
  weights_ = {.max = row->max(), .inverse_temperature = inverse, .bucket_scale = inverse};
  cut_ = {kLowest, row->size() - 1};
  sums_.resize(static_cast<size_t>(row->blocks()));
}

void TokenDraw::KeepBest(size_t count) {
  if (count >= static_cast<size_t>(row_->size())) return;
  SoftmaxWeights ones = weights_;
  ones.inverse_temperature = 0;
  const float reached = row_->ReachedBy(count);
  if (reached == kLowest) return CutWhereReached(ones, static_cast<double>(count), kLowest);
  row_->Find(reached, kInfinity, &candidates_);
  CutAtCandidate(ones, static_cast<double>(count));
}

void TokenDraw::KeepMass(double share) {
  const double total = WeighBlocks(cut_.logit);
  // Even all tokens together, were they lighter than this, would have but half of what is to be cut off.
  const double light = (1 - share) * total / (2.0 * row_->size());
  CutWhereReached(weights_, share * total, LogitBelow(light));
}

TokenId TokenDraw::Draw(float min_share, double uniform) {
  weights_.weight_min = min_share;
  const double total = WeighBlocks(min_share > 0 ? LogitBelow(static_cast<double>(min_share)) : kLowest);
  const double target = uniform * total;
  double sum = 0;
  for (int b = 0; b < row_->blocks(); ++b) {
    const double next = sum + sums_[static_cast<size_t>(b)];
    if (next <= target) {
      sum = next;
      continue;
    }
    float w[kLogitBlock];
    WeighBlock(b, w);
    TokenId last = 0;
    const int n = static_cast<int>(row_->block(b).size());
    for (int i = 0; i < n; ++i) {
      if (w[i] == 0) continue;
      last = b * kLogitBlock + i;
      sum += static_cast<double>(w[i]);
      if (sum > target) break;
    }
    return last;  // only rounding leads to the block's end
  }
  return row_->Best();  // uniform < 1, so only rounding leads here
}

template <typename F>
void TokenDraw::ForParts(int b, SoftmaxWeights weights, const F& f) const {
  const std::span<const float> block = row_->block(b);
  const int tied = std::clamp(cut_.token + 1 - b * kLogitBlock, 0, static_cast<int>(block.size()));
  const float floor = weights.logit_min;
  weights.logit_min = std::max(floor, cut_.logit);
  if (tied > 0) f(weights, block.first(static_cast<size_t>(tied)), 0);
  if (tied == static_cast<int>(block.size())) return;
  weights.logit_min = std::max(floor, std::nextafter(cut_.logit, kInfinity));
  f(weights, block.subspan(static_cast<size_t>(tied)), tied);
}

double TokenDraw::WeighBlock(int b, float* w) const {
  double sum = 0;
  ForParts(b, weights_, [&](const SoftmaxWeights& weights, std::span<const float> part, int at) {
    sum += Weigh(weights, part.data(), static_cast<int>(part.size()), w + at);
  });
  return sum;
}

double TokenDraw::WeighBlocks(float floor) {
  floor = std::max(floor, cut_.logit);
  float w[kLogitBlock];
  double total = 0;
  for (int b = 0; b < row_->blocks(); ++b) {
    const double sum = row_->block_max(b) < floor ? 0 : WeighBlock(b, w);
    sums_[static_cast<size_t>(b)] = sum;
    total += sum;
  }
  return total;
}

void TokenDraw::CutWhereReached(const SoftmaxWeights& weights, double need, float floor) {
  constexpr int kBuckets = SoftmaxWeights::kBuckets;
  if (buckets_ == nullptr) buckets_ = std::make_unique<BucketSums[]>(kBuckets);
  std::fill_n(&buckets_[0][0], 4 * kBuckets, 0.0);
  floor = std::max(floor, cut_.logit);
  SoftmaxWeights from_floor = weights;
  from_floor.logit_min = floor;
  for (int b = 0; b < row_->blocks(); ++b) {
    if (row_->block_max(b) < floor) continue;
    ForParts(b, from_floor, [&](const SoftmaxWeights& part_weights, std::span<const float> part, int) {
      AddToBuckets(part_weights, part.data(), static_cast<int>(part.size()), buckets_.get());
    });
  }
  // What is in the last bucket weighs nothing, so a cut there would be none.
  for (int k = 0; k < kBuckets - 1; ++k) {
    const double sum = (buckets_[k][0] + buckets_[k][1]) + (buckets_[k][2] + buckets_[k][3]);
    if (sum < need) {
      need -= sum;
      continue;
    }
    const float low = std::max(floor, LowestInBucket(weights, k));
    const float high = k == 0 ? kInfinity : LowestInBucket(weights, k - 1);
    row_->Find(low, high, &candidates_);
    std::erase_if(candidates_, [&](const ScoredToken& token) { return Before(cut_, token); });
    return CutAtCandidate(weights, need);
  }
}

void TokenDraw::CutAtCandidate(const SoftmaxWeights& weights, double need) {
  while (!candidates_.empty()) {
    // Only logits are compared, and the candidates stay in the order of their ids.
    const float pivot = MedianLogit(candidates_.front(), candidates_[candidates_.size() / 2], candidates_.back());
    double above = 0;
    size_t equal = 0, below = 0;
    for (const ScoredToken& token : candidates_) {
      if (token.logit > pivot) above += static_cast<double>(weights.Weight(token.logit));
      equal += token.logit == pivot;
      below += token.logit < pivot;
    }
    if (above >= need) {
      std::erase_if(candidates_, [&](const ScoredToken& token) { return token.logit <= pivot; });
      continue;
    }
    need -= above;
    const double weight = static_cast<double>(weights.Weight(pivot));
    if (static_cast<double>(equal) * weight < need && below > 0) {
      need -= static_cast<double>(equal) * weight;
      std::erase_if(candidates_, [&](const ScoredToken& token) { return token.logit >= pivot; });
      continue;
    }
    // The first that reaches it, or the last of all where rounding has taken a little from the sum.
    const double place = std::clamp(std::ceil(need / weight), 1.0, static_cast<double>(equal));
    size_t left = static_cast<size_t>(place);
    for (const ScoredToken& token : candidates_) {
      if (token.logit != pivot || --left > 0) continue;
      cut_ = token;
      return;
    }
  }
}

float TokenDraw::LogitBelow(double weight) const {
  // The slack covers the errors of a weight; rounding to float goes down.
  const double logit = weights_.max + (std::log(weight) - 1e-4) / weights_.inverse_temperature;
  return std::nextafter(static_cast<float>(std::max<double>(logit, kLowest)), -kInfinity);
}

}  // namespace braid
