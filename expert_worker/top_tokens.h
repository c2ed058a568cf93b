#pragma once

#include <span>
#include <vector>

#include "base/ids.h"

namespace braid {

struct ScoredToken {
  float logit = 0;
  TokenId token = 0;
};

// The order that decides everything about tokens: higher logit first, then lower id.
inline bool Before(const ScoredToken& a, const ScoredToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The `count` first tokens (all if there are fewer) in that order. Linear in the vocabulary for small counts; -infinity
// is skipped, that is how a token is ruled out. REQUIRES: no NaN, count >= 0.
std::vector<ScoredToken> TopTokens(std::span<const float> logits, size_t count);

// The first token in that order. REQUIRES: not empty, no NaN.
TokenId ArgMax(std::span<const float> logits);

// True if every value is neither infinite nor NaN.
bool AllFinite(std::span<const float> logits);

}  // namespace braid
