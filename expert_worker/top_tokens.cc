#include "expert_worker/top_tokens.h"

#include <functional>
#include <limits>

namespace braid {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// For functions that look at a row once: each thread's grows to the vocabulary and stays.
LogitRow& RowOfThisThread() {
  thread_local LogitRow row;
  return row;
}

}  // namespace

bool LogitRow::Read(std::span<const float> logits) {
  logits_ = logits;
  maxima_.resize(static_cast<size_t>(LogitBlocks(size())));
  const bool finite = BlockMaxima(logits.data(), size(), maxima_.data());
  max_ = *std::max_element(maxima_.begin(), maxima_.end());
  return finite;
}

TokenId LogitRow::Best() const {
  const int b = static_cast<int>(std::find(maxima_.begin(), maxima_.end(), max_) - maxima_.begin());
  const std::span<const float> values = block(b);
  return static_cast<TokenId>(b * kLogitBlock + (std::find(values.begin(), values.end(), max_) - values.begin()));
}

void LogitRow::Find(float low, float high, std::vector<ScoredToken>* found) const {
  found->clear();
  for (int b = 0; b < blocks(); ++b) {
    if (!(block_max(b) >= low)) continue;
    const std::span<const float> values = block(b);
    int32_t at[kLogitBlock];
    const int count = FindInRange(values.data(), static_cast<int>(values.size()), low, high, at);
    for (int i = 0; i < count; ++i) found->push_back({values[at[i]], b * kLogitBlock + at[i]});
  }
}

float LogitRow::ReachedBy(size_t count) {
  if (count == 0 || count > maxima_.size()) return kLowest;
  // Each of the best `count` blocks has at least one.
  sorted_maxima_ = maxima_;
  const auto last = sorted_maxima_.begin() + static_cast<ptrdiff_t>(count - 1);
  std::nth_element(sorted_maxima_.begin(), last, sorted_maxima_.end(), std::greater<float>());
  return std::max(*last, kLowest);
}

void TopTokens(std::span<const float> logits, size_t count, std::vector<ScoredToken>* best) {
  best->clear();
  if (count == 0) return;
  LogitRow& row = RowOfThisThread();
  row.Read(logits);
  row.Find(row.ReachedBy(count), kInfinity, best);
  if (count < best->size()) {
    std::nth_element(best->begin(), best->begin() + static_cast<ptrdiff_t>(count), best->end(), Before);
    best->resize(count);
  }
  std::sort(best->begin(), best->end(), Before);
}

std::vector<ScoredToken> TopTokens(std::span<const float> logits, size_t count) {
  std::vector<ScoredToken> best;
  TopTokens(logits, count, &best);
  return best;
}

TokenId ArgMax(std::span<const float> logits) {
  LogitRow& row = RowOfThisThread();
  row.Read(logits);
  return row.Best();
}

bool AllFinite(std::span<const float> logits) { return RowOfThisThread().Read(logits); }

}  // namespace braid
