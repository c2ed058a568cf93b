#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "cli/bench_serve/figures.h"

// How far the next-token distributions of a candidate are from those of a reference. Pure; float32 logits go in, all
// arithmetic is in double.

namespace braid {

// One position. A number among the logits that is not finite makes everything infinite and the tops different: a
// broken kernel must show, not drop out.
struct Divergence {
  double kl = 0;                 // of the candidate from the reference, sum p ln(p / q), in nats; never negative
  double logprob_error_max = 0;  // over all tokens, |ln p - ln q|
  bool same_top = false;         // the likeliest token is the same; the first of equals counts
  // -ln of what each gives the token that comes next; 0 if none does.
  double reference_surprise = 0, candidate_surprise = 0;
};
// REQUIRES: both rows have the same size, at least one; `next` is an index into them.
Divergence Compare(std::span<const float> reference, std::span<const float> candidate, std::optional<TokenId> next);

struct QualityFigures {
  Distribution kl;            // over positions
  double top1_agreement = 0;  // share of positions
  double logprob_error_max = 0;
  size_t predicted = 0;  // positions with a next token: what the perplexities are over
  double reference_perplexity = 0, candidate_perplexity = 0;
};

// Takes position by position.
class QualitySum {
 public:
  void Add(const Divergence& position, bool has_next);
  QualityFigures Figures() const;  // zeros if nothing was added

 private:
  std::vector<double> kl_;
  size_t same_top_ = 0, predicted_ = 0;
  double logprob_error_max_ = 0, reference_surprise_ = 0, candidate_surprise_ = 0;
};

}  // namespace braid
