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
float LowestInBucket(const LogitBuckets& buckets, int bucket) {
  int64_t low = Rank(kLowest), high = Rank(buckets.top);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (buckets.Of(FloatOfRank(static_cast<int32_t>(middle))) <= bucket) {
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
  weights_ = {.max = row->max(), .scale = SoftmaxWeights::ScaleOf(temperature)};
  cut_ = {kLowest, row->size() - 1};
  sums_.resize(static_cast<size_t>(row->blocks()));
}

void TokenDraw::KeepBest(size_t count) {
  if (count >= static_cast<size_t>(row_->size())) return;
  SoftmaxWeights ones = weights_;
  ones.scale = 0;
  if (count > static_cast<size_t>(row_->blocks())) return CutWhereReached(ones, static_cast<double>(count), kLowest);
  row_->FindFirst(count, &candidates_);
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
  constexpr int kBuckets = LogitBuckets::kCount;
  if (buckets_ == nullptr) buckets_ = std::make_unique<BucketSums[]>(kBuckets);
  std::fill_n(&buckets_[0][0], 4 * kBuckets, 0.0);
  SoftmaxWeights from_floor = weights;
  from_floor.logit_min = floor = std::max(floor, cut_.logit);
  const LogitBuckets buckets = LogitBuckets::Between(std::max(floor, LowOfSample()), weights.max);
  for (int b = 0; b < row_->blocks(); ++b) {
    if (row_->block_max(b) < floor) continue;
    ForParts(b, from_floor, [&](const SoftmaxWeights& part_weights, std::span<const float> part, int) {
      AddToBuckets(part_weights, buckets, part.data(), static_cast<int>(part.size()), buckets_.get());
    });
  }
  for (int k = 0; k < kBuckets; ++k) {
    const double sum = (buckets_[k][0] + buckets_[k][1]) + (buckets_[k][2] + buckets_[k][3]);
    if (sum < need) {
      need -= sum;
      continue;
    }
    const float low = std::max(floor, LowestInBucket(buckets, k));
    const float high = k == 0 ? std::nextafter(weights.max, kInfinity) : LowestInBucket(buckets, k - 1);
    if (std::nextafter(low, kInfinity) >= high) {
      float w;
      Weigh(weights, &low, 1, &w);
      return CutAtEqual(low, std::ceil(need / static_cast<double>(w)));
    }
    candidates_.clear();
    row_->Find(low, high, static_cast<size_t>(row_->size()), &candidates_);
    std::erase_if(candidates_, [&](const ScoredToken& token) { return Before(cut_, token); });
    return CutAtCandidate(weights, need);
  }
}

void TokenDraw::CutAtCandidate(const SoftmaxWeights& weights, double need) {
  while (!candidates_.empty()) {
    // Only logits are compared: equal candidates stay in the order of their ids.
    const size_t n = candidates_.size();
    const float pivot = MedianLogit(candidates_.front(), candidates_[n / 2], candidates_.back());
    double above = 0, equal = 0, weight = 0;
    size_t below = 0;
    for (size_t begin = 0; begin < n; begin += kLogitBlock) {
      const size_t end = std::min(n, begin + kLogitBlock);
      float logits[kLogitBlock], w[kLogitBlock];
      for (size_t i = begin; i < end; ++i) logits[i - begin] = candidates_[i].logit;
      Weigh(weights, logits, static_cast<int>(end - begin), w);
      for (size_t i = begin; i < end; ++i) {
        const float logit = logits[i - begin];
        const double candidate = static_cast<double>(w[i - begin]);
        above += logit > pivot ? candidate : 0;
        equal += logit == pivot;
        weight = logit == pivot ? candidate : weight;
        below += logit < pivot;
      }
    }
    if (above >= need) {
      std::erase_if(candidates_, [&](const ScoredToken& token) { return token.logit <= pivot; });
    } else if (above + equal * weight < need && below > 0) {
      need -= above + equal * weight;
      std::erase_if(candidates_, [&](const ScoredToken& token) { return token.logit >= pivot; });
    } else {
      return CutAtEqual(pivot, std::ceil((need - above) / weight));
    }
  }
}

void TokenDraw::CutAtEqual(float logit, double place) {
  const ScoredToken before = cut_;
  double seen = 0;
  for (int b = 0; b < row_->blocks() && seen < place; ++b) {
    if (row_->block_max(b) < logit) continue;
    const std::span<const float> values = row_->block(b);
    int32_t at[kLogitBlock];
    const int count =
        FindInRange(values.data(), static_cast<int>(values.size()), logit, std::nextafter(logit, kInfinity), at);
    for (int i = 0; i < count && seen < place; ++i, ++seen) {
      const ScoredToken token{values[at[i]], b * kLogitBlock + at[i]};
      if (Before(before, token)) return;
      cut_ = token;
    }
  }
}

float TokenDraw::LogitBelow(double weight) const {
  // The slack covers the errors of a weight; rounding to float goes down.
  const double logit = weights_.max + (std::log2(weight) - 1e-3) / weights_.scale;
  return std::nextafter(static_cast<float>(std::max<double>(logit, kLowest)), -kInfinity);
}

float TokenDraw::LowOfSample() const {
  constexpr int kSample = 256;
  const int size = row_->size(), step = std::max(1, size / kSample);
  float low = weights_.max;
  for (int i = 0; i < size; i += step) {
    const float logit = row_->logits()[static_cast<size_t>(i)];
    if (logit >= kLowest) low = std::min(low, logit);
  }
  return low;
}

}  // namespace braid
