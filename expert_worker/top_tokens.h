#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "base/ids.h"
#include "kernels/softmax.h"

namespace braid {

struct ScoredToken {
  float logit = 0;
  TokenId token = 0;
};

// The order that decides everything about tokens: higher logit first, then lower id.
inline bool Before(const ScoredToken& a, const ScoredToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// A row of logits with the maximum of each of its blocks: who looks for high ones can leave most of the row unread.
// -infinity is how a token is ruled out. Keeps its memory from row to row.
class LogitRow {
 public:
  // `logits` must outlive the use of *this, and be read again after a change. True if all are finite; if not, but
  // -infinity is the worst among them, everything else can be asked, too. REQUIRES: not empty.
  bool Read(std::span<const float> logits);

  int size() const { return static_cast<int>(logits_.size()); }
  int blocks() const { return static_cast<int>(maxima_.size()); }
  std::span<const float> block(int b) const {
    const size_t begin = static_cast<size_t>(b) * kLogitBlock;
    return logits_.subspan(begin, std::min<size_t>(kLogitBlock, logits_.size() - begin));
  }
  float block_max(int b) const { return maxima_[static_cast<size_t>(b)]; }
  float max() const { return max_; }

  // The first token in the order.
  TokenId Best() const;
  // The tokens with low <= logit < high, by id.
  void Find(float low, float high, std::vector<ScoredToken>* found) const;
  // A logit that `count` tokens reach, close to the best such; the lowest of all when the blocks are too few to tell.
  float ReachedBy(size_t count);

 private:
  std::span<const float> logits_;
  std::vector<float> maxima_, sorted_maxima_;
  float max_ = 0;
};

// The `count` first tokens (all if there are fewer) in that order; -infinity is skipped. REQUIRES: not empty, no NaN,
// count >= 0.
void TopTokens(std::span<const float> logits, size_t count, std::vector<ScoredToken>* best);
std::vector<ScoredToken> TopTokens(std::span<const float> logits, size_t count);

// The first token in that order. REQUIRES: not empty, no NaN.
TokenId ArgMax(std::span<const float> logits);

// True if every value is neither infinite nor NaN.
bool AllFinite(std::span<const float> logits);

}  // namespace braid
