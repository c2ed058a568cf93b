#include "expert_worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "base/count_allocations.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/top_tokens.h"

namespace braid {
namespace {

v1::SamplingParams Params(float temperature = 1) {
  v1::SamplingParams params;
  params.set_temperature(temperature);
  params.set_top_p(1);
  params.set_repetition_penalty(1);
  params.set_seed(7);
  return params;
}

std::vector<float> RandomLogits(int vocab, uint32_t seed, float scale = 3) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

TokenId Sample(std::vector<float> logits, const v1::SamplingParams& params, uint64_t position = 0,
               const TokenCounts& counts = {}, std::vector<TokenId> masked = {}) {
  auto token = SampleToken(std::span(logits), params, counts, masked, position);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.value_or(-1);
}

// What the parameters mean, said as simply as possible: sort everything, filter, normalise.
std::vector<double> ReferenceDistribution(const std::vector<float>& logits, const v1::SamplingParams& params) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> p;
  for (int id : order) p.push_back(std::exp((double(logits[id]) - logits[order[0]]) / params.temperature()));
  if (params.top_k() > 0 && params.top_k() < p.size()) p.resize(params.top_k());
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  double sum = 0;
  size_t kept = 0;
  while (kept < p.size() && (sum < params.top_p() * total || kept == 0)) sum += p[kept++];
  p.resize(kept);
  while (p.back() < params.min_p() * p[0]) p.pop_back();
  const double norm = std::accumulate(p.begin(), p.end(), 0.0);
  std::vector<double> distribution(logits.size());
  for (size_t i = 0; i < p.size(); ++i) distribution[order[i]] = p[i] / norm;
  return distribution;
}

void ExpectDistribution(const std::vector<float>& logits, const v1::SamplingParams& params) {
  const std::vector<double> expected = ReferenceDistribution(logits, params);
  constexpr int kDraws = 20000;
  std::vector<int> seen(logits.size());
  for (int i = 0; i < kDraws; ++i) ++seen[Sample(logits, params, i)];
  for (size_t id = 0; id < logits.size(); ++id) {
    if (expected[id] == 0) {
      EXPECT_EQ(seen[id], 0) << "token " << id << " was ruled out";
    }
    const double deviation = std::sqrt(expected[id] * (1 - expected[id]) / kDraws);
    EXPECT_NEAR(double(seen[id]) / kDraws, expected[id], 5 * deviation + 1e-9) << "token " << id;
  }
}

TEST(Sampler, DrawsFromTheSoftmax) { ExpectDistribution(RandomLogits(40, 1, 1), Params()); }

TEST(Sampler, AppliesEveryFilterLikeTheReference) {
  const std::vector<float> logits = RandomLogits(50, 2, 1.5);
  for (float temperature : {0.3f, 1.0f, 2.0f}) {
    for (uint32_t top_k : {0u, 1u, 7u, 1000u}) {
      for (float top_p : {0.05f, 0.8f, 1.0f}) {
        for (float min_p : {0.0f, 0.2f, 1.0f}) {
          v1::SamplingParams params = Params(temperature);
          params.set_top_k(top_k);
          params.set_top_p(top_p);
          params.set_min_p(min_p);
          SCOPED_TRACE(params.ShortDebugString());
          const std::vector<double> expected = ReferenceDistribution(logits, params);
          for (int i = 0; i < 300; ++i) ASSERT_GT(expected[Sample(logits, params, i)], 0);
        }
      }
    }
  }
  v1::SamplingParams params = Params(0.7);
  params.set_top_k(20);
  params.set_top_p(0.9);
  params.set_min_p(0.05);
  ExpectDistribution(logits, params);
}

TEST(Sampler, LooksFurtherWhenTopPNeedsMoreThanTheFirstLook) {
  v1::SamplingParams params = Params();
  params.set_top_p(0.999);
  const std::vector<float> flat(3000, 0.5f);
  TokenId highest = 0;
  for (int i = 0; i < 200; ++i) highest = std::max(highest, Sample(flat, params, i));
  EXPECT_GT(highest, 2500);
  EXPECT_LT(highest, 2998) << "the mass is reached before the last of the equal tokens, by id";
}

TEST(Sampler, IsAFunctionOfSeedChoiceAndPosition) {
  const std::vector<float> logits = RandomLogits(1000, 3);
  v1::SamplingParams params = Params();
  std::vector<TokenId> first, again, other_seed, other_choice;
  for (int i = 0; i < 50; ++i) first.push_back(Sample(logits, params, i));
  for (int i = 0; i < 50; ++i) again.push_back(Sample(logits, params, i));
  params.set_choice(1);
  for (int i = 0; i < 50; ++i) other_choice.push_back(Sample(logits, params, i));
  params.set_choice(0);
  params.set_seed(8);
  for (int i = 0; i < 50; ++i) other_seed.push_back(Sample(logits, params, i));
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other_seed);
  EXPECT_NE(first, other_choice);
}

TEST(Sampler, GreedyTakesTheBestAndTheLowestOfEquals) {
  EXPECT_EQ(Sample({1, 5, 5, 2}, Params(0)), 1);
  std::vector<float> logits = RandomLogits(128000, 4);
  logits[70001] = logits[90000] = 100;
  EXPECT_EQ(Sample(logits, Params(0)), 70001);
}

TEST(Sampler, ATinyTemperatureIsGreedy) { EXPECT_EQ(Sample({1, 3, 2.9999f}, Params(1e-30f)), 1); }

TEST(Sampler, NeverChoosesAMaskedToken) {
  for (float temperature : {0.0f, 2.0f}) {
    for (int i = 0; i < 200; ++i) EXPECT_EQ(Sample({9, 1, 9, 9}, Params(temperature), i, {}, {0, 2, 3}), 1);
  }
  std::vector<float> logits = {1, 2};
  const std::vector<TokenId> all = {0, 1};
  EXPECT_FALSE(SampleToken(std::span(logits), Params(), {}, all, 0).ok());
}

TEST(Sampler, BiasComesBeforeEverything) {
  v1::SamplingParams params = Params(0);
  auto* bias = params.add_logit_bias();
  bias->set_token(2);
  bias->set_bias(100);
  EXPECT_EQ(Sample({5, 6, -50}, params), 2);
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOfPromptAndAnswer) {
  v1::SamplingParams params = Params(0);
  params.set_repetition_penalty(2);
  TokenCounts counts;
  counts.Add(0, /*answer=*/false);
  counts.Add(1, /*answer=*/true);
  EXPECT_EQ(Sample({10, 9, 5.1f, -1}, params, 0, counts), 2);  // 5, 4.5, 5.1, -1
  counts.Add(2, /*answer=*/false);
  EXPECT_EQ(Sample({-1, -1.2f, -1.1f, -1.9f}, params, 0, counts), 3);  // -2, -2.4, -2.2, -1.9
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountTheAnswerOnly) {
  TokenCounts counts;
  counts.Add(0, /*answer=*/false);
  counts.Add(1, /*answer=*/true);
  counts.Add(1, /*answer=*/true);
  counts.Add(2, /*answer=*/true);
  v1::SamplingParams presence = Params(0);
  presence.set_presence_penalty(1);
  EXPECT_EQ(Sample({1, 1.9f, 1.8f}, presence, 0, counts), 0);  // 1, 0.9, 0.8
  v1::SamplingParams frequency = Params(0);
  frequency.set_frequency_penalty(1);
  EXPECT_EQ(Sample({0, 2.5f, 1.7f}, frequency, 0, counts), 2);  // 0, 0.5, 0.7
}

TEST(TokenCounts, WhatIsTakenBackLeavesNothing) {
  TokenCounts counts;
  counts.Add(0, /*answer=*/false);
  counts.Add(0, /*answer=*/true);
  counts.Add(1, /*answer=*/true);
  counts.Remove(0, /*answer=*/true);
  counts.Remove(1, /*answer=*/true);
  ASSERT_EQ(counts.counts().size(), 1u);
  EXPECT_EQ(counts.counts().at(0).all, 1);
  EXPECT_EQ(counts.counts().at(0).answer, 0);
}

TEST(Sampler, SurvivesAbsurdPenalties) {
  v1::SamplingParams params = Params();
  params.set_repetition_penalty(1e-40f);
  TokenCounts counts;
  counts.Add(0, /*answer=*/false);
  counts.Add(1, /*answer=*/false);
  EXPECT_EQ(Sample({1, -1, 3}, params, 0, counts), 0);
}

TEST(Sampler, LogitsThatAreNotFiniteAreAnError) {
  for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> logits = RandomLogits(100, 5);
    logits[57] = bad;
    EXPECT_EQ(SampleToken(std::span(logits), Params(), {}, {}, 0).status().code(), absl::StatusCode::kInternal);
  }
}

TEST(Sampler, LeavesTheLogitsAsTheyWere) {
  v1::SamplingParams params = Params();
  params.set_repetition_penalty(1.3f);
  for (int i = 0; i < 2; ++i) {  // the same token twice
    params.add_logit_bias()->set_token(4);
    params.mutable_logit_bias(i)->set_bias(5);
  }
  TokenCounts counts;
  counts.Add(4, /*answer=*/true);
  const std::vector<TokenId> masked = {4, 9};
  const std::vector<float> before = RandomLogits(700, 6);
  std::vector<float> logits = before;
  ASSERT_TRUE(SampleToken(std::span(logits), params, counts, masked, 0).ok());
  EXPECT_EQ(logits, before);
}

TEST(Sampler, AllocatesNothingForARowLikeTheOneBefore) {
  std::vector<float> logits = RandomLogits(5000, 12);
  const std::vector<TokenId> masked = {4998, 4999};
  TokenCounts counts;
  counts.Add(3, /*answer=*/true);
  v1::SamplingParams params = Params();
  params.set_repetition_penalty(1.1f);
  for (uint32_t top_k : {0, 10, 1000}) {
    params.set_top_k(top_k);
    params.set_top_p(0.9f);
    size_t before = 0;
    for (int i = 0; i < 2; ++i) {
      before = allocations;
      ASSERT_TRUE(SampleToken(std::span(logits), params, counts, masked, 0).ok());
      EXPECT_GT(LogSumExp(logits), 0);
    }
    EXPECT_EQ(allocations - before, 0u) << top_k;
  }
}

TEST(CheckSampling, NamesTheParameterThatIsOutOfRange) {
  EXPECT_TRUE(CheckSampling(Params(), 10).ok());
  const auto refused = [](auto change) {
    v1::SamplingParams params = Params();
    change(params);
    const absl::Status status = CheckSampling(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(refused([](auto& p) { p.set_temperature(-1); }).find("temperature"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_temperature(std::nanf("")); }).find("temperature"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_top_p(0); }).find("top_p"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_min_p(1.1f); }).find("min_p"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_repetition_penalty(0); }).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_presence_penalty(3); }).find("presence_penalty"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.set_frequency_penalty(-3); }).find("frequency_penalty"), std::string::npos);
  EXPECT_NE(refused([](auto& p) { p.add_logit_bias()->set_token(10); }).find("logit_bias"), std::string::npos);
}

TEST(TopTokens, AgreesWithSortingEverything) {
  for (int vocab : {1, 5, 64, 65, 1000, 70000}) {
    std::vector<float> logits = RandomLogits(vocab, vocab);
    for (float& logit : logits) logit = std::round(logit * 8) / 8;  // many equal ones
    std::vector<ScoredToken> sorted;
    for (int id = 0; id < vocab; ++id) sorted.push_back({logits[id], id});
    std::sort(sorted.begin(), sorted.end(), Before);
    for (size_t count : {size_t{0}, size_t{1}, size_t{20}, size_t{300}, size_t{1} << 40}) {
      const std::vector<ScoredToken> top = TopTokens(logits, count);
      ASSERT_EQ(top.size(), std::min<size_t>(count, vocab));
      for (size_t i = 0; i < top.size(); ++i) ASSERT_EQ(top[i].token, sorted[i].token) << i << " of " << vocab;
    }
    EXPECT_EQ(ArgMax(logits), sorted[0].token);
  }
}

TEST(Logprobs, AreTheLogSoftmax) {
  const std::vector<float> logits = RandomLogits(1000, 9);
  const double log_sum = LogSumExp(logits);
  double total = 0;
  for (float logit : logits) total += std::exp(logit - log_sum);
  EXPECT_NEAR(total, 1, 1e-6);
  v1::TokenLogprob out;
  AddAlternatives(logits, log_sum, 3, &out);
  ASSERT_EQ(out.top_size(), 3);
  EXPECT_EQ(out.top(0).token(), ArgMax(logits));
  EXPECT_GE(out.top(0).logprob(), out.top(1).logprob());
  EXPECT_NEAR(out.top(0).logprob(), logits[ArgMax(logits)] - log_sum, 1e-6);
}

TEST(Logprobs, DoNotOverflow) { EXPECT_NEAR(LogSumExp(std::vector<float>{1000, 1000}), 1000 + std::log(2), 1e-9); }

}  // namespace
}  // namespace braid
