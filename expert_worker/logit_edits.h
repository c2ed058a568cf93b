#pragma once

#include <span>
#include <vector>

#include "base/ids.h"
#include "expert_worker/top_tokens.h"

namespace braid {

// Changes a few logits of a row until the scope ends: cheaper than a copy of the row.
class LogitEdits {
 public:
  // Both must outlive *this. `saved` is only room.
  LogitEdits(std::span<float> logits, std::vector<ScoredToken>* saved) : logits_(logits), saved_(*saved) {
    saved_.clear();
  }
  ~LogitEdits() {
    for (auto last = saved_.rbegin(); last != saved_.rend(); ++last) logits_[last->token] = last->logit;
  }
  LogitEdits(const LogitEdits&) = delete;

  void Set(TokenId token, float logit) {
    saved_.push_back({logits_[token], token});
    logits_[token] = logit;
  }
  bool empty() const { return saved_.empty(); }

 private:
  const std::span<float> logits_;
  std::vector<ScoredToken>& saved_;
};

}  // namespace braid
