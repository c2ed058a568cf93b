#include "cli/bench_quality/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace braid {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool AllFinite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

double LogSumExp(std::span<const float> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

// p ln(p / q) + q - p, whose sum over all tokens is the divergence, as both p and q add up to 1. Unlike p ln(p / q) it
// is never negative: two rows that are nearly the same give a tiny sum of tiny terms, not what is left when large ones
// have cancelled.
double KlTerm(double log_p, double log_q) {
  const double difference = log_p - log_q;
  const double p = std::exp(log_p);
  if (std::abs(difference) < 1) return p * (difference + std::expm1(-difference));
  return p * difference + std::exp(log_q) - p;
}

}  // namespace

Divergence Compare(std::span<const float> reference, std::span<const float> candidate, std::optional<TokenId> next) {
  CHECK_EQ(reference.size(), candidate.size());
  CHECK(!reference.empty());
  if (!AllFinite(reference) || !AllFinite(candidate))
    return {.kl = kInfinity,
            .logprob_error_max = kInfinity,
            .reference_surprise = kInfinity,
            .candidate_surprise = kInfinity};
  Divergence out;
  const double log_sum_p = LogSumExp(reference), log_sum_q = LogSumExp(candidate);
  for (size_t token = 0; token < reference.size(); ++token) {
    const double log_p = reference[token] - log_sum_p, log_q = candidate[token] - log_sum_q;
    out.kl += std::max(0.0, KlTerm(log_p, log_q));
    out.logprob_error_max = std::max(out.logprob_error_max, std::abs(log_p - log_q));
  }
  out.same_top = std::ranges::max_element(reference) - reference.begin() ==
                 std::ranges::max_element(candidate) - candidate.begin();
  if (next) {
    out.reference_surprise = log_sum_p - reference[static_cast<size_t>(*next)];
    out.candidate_surprise = log_sum_q - candidate[static_cast<size_t>(*next)];
  }
  return out;
}

void QualitySum::Add(const Divergence& position, bool has_next) {
  kl_.push_back(position.kl);
  same_top_ += position.same_top;
  logprob_error_max_ = std::max(logprob_error_max_, position.logprob_error_max);
  if (!has_next) return;
  ++predicted_;
  reference_surprise_ += position.reference_surprise;
  candidate_surprise_ += position.candidate_surprise;
}

QualityFigures QualitySum::Figures() const {
  QualityFigures out = {.kl = Describe(kl_), .logprob_error_max = logprob_error_max_, .predicted = predicted_};
  if (!kl_.empty()) out.top1_agreement = static_cast<double>(same_top_) / static_cast<double>(kl_.size());
  if (predicted_ > 0) {
    out.reference_perplexity = std::exp(reference_surprise_ / static_cast<double>(predicted_));
    out.candidate_perplexity = std::exp(candidate_surprise_ / static_cast<double>(predicted_));
  }
  return out;
}

}  // namespace braid
