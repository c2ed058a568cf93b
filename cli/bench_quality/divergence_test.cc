#include "cli/bench_quality/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace braid {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Logs(std::vector<double> probabilities, double shift = 0) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

std::vector<float> NormalLogits(size_t n, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(Compare, IsTheKullbackLeiblerDivergence) {
  const Divergence d = Compare(Logs({0.5, 0.25, 0.25}), Logs({0.25, 0.25, 0.5}), TokenId{0});
  EXPECT_NEAR(d.kl, 0.25 * std::log(2), 1e-7);  // 0.5 ln 2 + 0.25 ln(1 / 2)
  EXPECT_NEAR(d.logprob_error_max, std::log(2), 1e-6);
  EXPECT_FALSE(d.same_top);
  EXPECT_NEAR(d.reference_surprise, std::log(2), 1e-7);
  EXPECT_NEAR(d.candidate_surprise, std::log(4), 1e-7);
}

TEST(Compare, IsNotSymmetric) {
  const std::vector<float> sure = Logs({0.98, 0.01, 0.01}), unsure = Logs({0.4, 0.3, 0.3});
  EXPECT_NEAR(Compare(sure, unsure, {}).kl, 0.98 * std::log(0.98 / 0.4) + 0.02 * std::log(0.01 / 0.3), 1e-6);
  EXPECT_NEAR(Compare(unsure, sure, {}).kl, 0.4 * std::log(0.4 / 0.98) + 0.6 * std::log(0.3 / 0.01), 1e-6);
}

TEST(Compare, DoesNotSeeWhatSoftmaxDoesNot) {
  const Divergence d = Compare(Logs({0.5, 0.3, 0.2}), Logs({0.5, 0.3, 0.2}, 40), TokenId{1});
  EXPECT_LT(d.kl, 1e-11);
  EXPECT_LT(d.logprob_error_max, 1e-5);
  EXPECT_TRUE(d.same_top);
  EXPECT_NEAR(d.candidate_surprise, d.reference_surprise, 1e-5);
}

TEST(Compare, IsExactlyZeroForTheSameRow) {
  for (const float spread : {0.0f, 1e-3f, 1.0f, 30.0f}) {
    const std::vector<float> row = NormalLogits(128'000, spread, 1);
    const Divergence d = Compare(row, row, {});
    EXPECT_EQ(d.kl, 0);
    EXPECT_EQ(d.logprob_error_max, 0);
    EXPECT_TRUE(d.same_top);
  }
}

// For a small change e of the logits the divergence is half the variance of e under p: here p is uniform, so what
// rounding would leave of cancelled terms of ln 128000 = 12 is far above 1e-12.
TEST(Compare, IsRightForTinyDifferencesOverAWholeVocabulary) {
  constexpr size_t kTokens = 128'000;
  const std::vector<float> flat(kTokens, 0.0f);
  for (const double step : {0x1p-10, 0x1p-16, 0x1p-20}) {
    std::vector<float> candidate(kTokens);
    for (size_t i = 0; i < kTokens; ++i) candidate[i] = static_cast<float>(i % 2 == 0 ? step : -step);
    const double kl = Compare(flat, candidate, {}).kl;
    EXPECT_NEAR(kl / (step * step / 2), 1, 1e-3) << step;
  }
}

TEST(Compare, AgreesWithLongDoubleOnWideRows) {
  const std::vector<float> p = NormalLogits(128'000, 8, 2), q = NormalLogits(128'000, 8, 3);
  const auto log_sum = [](const std::vector<float>& row) {
    long double sum = 0;
    for (const float x : row) sum += std::exp(static_cast<long double>(x));
    return std::log(sum);
  };
  const long double log_p = log_sum(p), log_q = log_sum(q);
  long double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
  EXPECT_NEAR(Compare(p, q, {}).kl / static_cast<double>(kl), 1, 1e-12);
}

TEST(Compare, StaysFiniteAtTheEndsOfFloat) {
  const std::vector<float> up = {3e38f, -3e38f, 0}, down = {-3e38f, 3e38f, 0};
  const Divergence d = Compare(up, down, TokenId{0});
  EXPECT_NEAR(d.kl / 6e38, 1, 1e-6);
  EXPECT_TRUE(std::isfinite(d.candidate_surprise));
}

TEST(Compare, ShowsWhatIsNotFinite) {
  const std::vector<float> good = {1, 2, 3};
  for (const float bad : {kInf, -kInf, kNan}) {
    const std::vector<float> row = {1, bad, 3};
    for (const Divergence& d : {Compare(good, row, TokenId{0}), Compare(row, good, {}), Compare(row, row, {})}) {
      EXPECT_TRUE(std::isinf(d.kl));
      EXPECT_TRUE(std::isinf(d.logprob_error_max));
      EXPECT_FALSE(d.same_top);
    }
  }
}

TEST(QualitySum, GivesZerosForNothing) {
  const QualityFigures figures = QualitySum().Figures();
  EXPECT_EQ(figures.kl.count, 0u);
  EXPECT_EQ(figures.top1_agreement, 0);
  EXPECT_EQ(figures.reference_perplexity, 0);
}

TEST(QualitySum, AddsUpPositions) {
  QualitySum sum;
  sum.Add({.kl = 0.1,
           .logprob_error_max = 0.5,
           .same_top = true,
           .reference_surprise = std::log(2),
           .candidate_surprise = std::log(4)},
          true);
  sum.Add({.kl = 0.3,
           .logprob_error_max = 0.2,
           .same_top = false,
           .reference_surprise = std::log(8),
           .candidate_surprise = std::log(4)},
          true);
  sum.Add({.kl = 0.2, .logprob_error_max = 0.1, .same_top = true}, false);
  const QualityFigures figures = sum.Figures();
  EXPECT_EQ(figures.kl.count, 3u);
  EXPECT_NEAR(figures.kl.mean, 0.2, 1e-12);
  EXPECT_NEAR(figures.kl.p50, 0.2, 1e-12);
  EXPECT_NEAR(figures.kl.max, 0.3, 1e-12);
  EXPECT_NEAR(figures.top1_agreement, 2.0 / 3, 1e-12);
  EXPECT_EQ(figures.logprob_error_max, 0.5);
  EXPECT_EQ(figures.predicted, 2u);
  EXPECT_NEAR(figures.reference_perplexity, 4, 1e-12);  // the geometric mean of 2 and 8
  EXPECT_NEAR(figures.candidate_perplexity, 4, 1e-12);
}

TEST(QualitySum, KeepsWhatIsNotFiniteInSight) {
  QualitySum sum;
  sum.Add(Compare(std::vector<float>{1, 2}, std::vector<float>{1, 2}, TokenId{0}), true);
  sum.Add(Compare(std::vector<float>{1, 2}, std::vector<float>{1, kNan}, TokenId{0}), true);
  const QualityFigures figures = sum.Figures();
  EXPECT_TRUE(std::isinf(figures.kl.mean));
  EXPECT_TRUE(std::isinf(figures.kl.max));
  EXPECT_EQ(figures.top1_agreement, 0.5);
  EXPECT_TRUE(std::isinf(figures.candidate_perplexity));
}

}  // namespace
}  // namespace braid
