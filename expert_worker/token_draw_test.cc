// TokenDraw against sorting everything, in plain double.

#include "expert_worker/token_draw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include "expert_worker/sampler.h"
#include "kernels/cpu/level.h"

namespace braid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Cuts {
  float temperature = 1;
  size_t top_k = 0;
  double top_p = 1;
  float min_p = 0;
};

TokenId Draw(std::span<const float> logits, const Cuts& cuts, double uniform) {
  LogitRow row;
  row.Read(logits);
  TokenDraw draw;
  draw.Start(&row, cuts.temperature);
  if (cuts.top_k > 0) draw.KeepBest(cuts.top_k);
  if (cuts.top_p < 1) draw.KeepMass(cuts.top_p);
  return draw.Draw(cuts.min_p, uniform);
}

struct Reference {
  std::vector<double> p;  // by id, 0 if cut off; they add up to 1
  // That a cut is as near to being somewhere else as rounding: the mass, or the least probability.
  bool close = false;
};

Reference Sort(std::span<const float> logits, const Cuts& cuts) {
  std::vector<ScoredToken> order;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > -kInfinity) order.push_back({logits[i], static_cast<TokenId>(i)});
  std::sort(order.begin(), order.end(), Before);
  if (cuts.top_k > 0 && cuts.top_k < order.size()) order.resize(cuts.top_k);
  const auto weight = [&](const ScoredToken& token) {
    return std::exp((double{token.logit} - order[0].logit) / cuts.temperature);
  };
  Reference reference;
  double total = 0, sum = 0;
  for (const ScoredToken& token : order) total += weight(token);
  size_t kept = 0;
  for (; kept < order.size(); ++kept) {
    if (cuts.top_p < 1 && std::abs(sum - cuts.top_p * total) < 1e-6 * total) reference.close = true;
    if (kept > 0 && sum >= cuts.top_p * total && cuts.top_p < 1) break;
    sum += weight(order[kept]);
  }
  order.resize(kept);
  const auto share_off = [&] { return weight(order.back()) / double{cuts.min_p} - 1; };
  while (weight(order.back()) < double{cuts.min_p} && std::abs(share_off()) > 1e-4) order.pop_back();
  if (cuts.min_p > 0 && std::abs(share_off()) < 1e-4 && order.size() > 1) reference.close = true;
  reference.p.resize(logits.size());
  total = 0;
  for (const ScoredToken& token : order) total += weight(token);
  for (const ScoredToken& token : order) reference.p[token.token] = weight(token) / total;
  return reference;
}

// Every token that is drawn at some `uniform` is drawn where the running sum by id says.
void ExpectLikeReference(std::span<const float> logits, const Cuts& cuts) {
  const Reference reference = Sort(logits, cuts);
  if (reference.close) return;
  SCOPED_TRACE(testing::Message() << logits.size() << " logits, temperature " << cuts.temperature << ", top_k "
                                  << cuts.top_k << ", top_p " << cuts.top_p << ", min_p " << cuts.min_p);
  std::vector<double> ends(logits.size());
  std::partial_sum(reference.p.begin(), reference.p.end(), ends.begin());
  std::mt19937_64 rng(5);
  for (int i = 0; i < 60; ++i) {
    const double uniform = i == 0 ? 0 : i == 1 ? 1 - 0x1p-53 : static_cast<double>(rng() >> 11) * 0x1p-53;
    const TokenId token = Draw(logits, cuts, uniform);
    ASSERT_GT(reference.p[token], 0) << "token " << token << " is cut off";
    const double begin = token == 0 ? 0 : ends[token - 1];
    ASSERT_GE(uniform, begin - 2e-6) << "token " << token;
    ASSERT_LE(uniform, ends[token] + 2e-6) << "token " << token;
  }
}

std::vector<float> Normal(int n, uint32_t seed, float deviation) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

// Rows that are hard for something.
std::vector<std::vector<float>> Rows(int n) {
  std::vector<std::vector<float>> rows = {Normal(n, n, 3), Normal(n, n + 1, 0.01f), std::vector<float>(n, -7.5f)};
  std::vector<float> ties = Normal(n, n + 2, 2);
  for (float& logit : ties) logit = std::round(logit);
  rows.push_back(ties);
  std::vector<float> one_hot(n, 0);
  one_hot[n / 2] = 60;
  rows.push_back(one_hot);
  std::vector<float> masked = Normal(n, n + 3, 1);
  for (int i = 0; i + 1 < n; ++i)
    if (i % 3 != 0 || i / kLogitBlock == 1) masked[i] = -kInfinity;
  rows.push_back(masked);
  std::vector<float> ascending(n), tiny(n);
  for (int i = 0; i < n; ++i) {
    ascending[i] = 0.001f * static_cast<float>(i);
    tiny[i] = -80 - 0.01f * static_cast<float>(i % 1000);  // weights of e^-80 and less beside one
  }
  tiny[n - 1] = 0;
  rows.push_back(ascending);
  rows.push_back(tiny);
  // All in one bucket, at scales that halve and halve.
  std::vector<float> clustered(n);
  for (int i = 0; i < n; ++i) clustered[i] = std::ldexp(-0.01f, -(i % 100));
  rows.push_back(clustered);
  return rows;
}

TEST(TokenDraw, DrawsWhatSortingEverythingWould) {
  for (int n : {1, 2, 17, 255, 256, 257, 512, 1000, 3000}) {
    for (const std::vector<float>& row : Rows(n)) {
      for (float temperature : {0.05f, 1.0f, 2.0f}) {
        for (size_t top_k : {0, 1, 2, 10, 300, 2999}) {
          for (double top_p : {1.0, 0.95, 0.5, 1e-6}) {
            for (float min_p : {0.0f, 0.15f, 1.0f}) {
              ExpectLikeReference(row, {temperature, top_k, top_p, min_p});
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST(TokenDraw, DrawsFromALongRow) {
  for (const std::vector<float>& row : Rows(128000)) {
    ExpectLikeReference(row, {.temperature = 1});
    ExpectLikeReference(row, {.temperature = 1, .top_p = 0.9});
    ExpectLikeReference(row, {.temperature = 2, .top_k = 5000, .top_p = 0.99});
    ExpectLikeReference(row, {.temperature = 0.7f, .top_k = 50, .top_p = 0.9, .min_p = 0.01f});
  }
}

// The lower ids of equal tokens stay, wherever block and lanes end.
TEST(TokenDraw, CutsThroughEqualTokensById) {
  for (int n : {1, 16, 255, 256, 257, 700}) {
    const std::vector<float> flat(n, 3.25f);
    for (int kept = 1; kept <= n; kept += 1 + n / 40) {
      const double just_under = (kept - 0.5) / n;
      for (const Cuts& cuts : {Cuts{.top_k = static_cast<size_t>(kept)}, Cuts{.top_p = just_under}}) {
        EXPECT_EQ(Draw(flat, cuts, 0), 0);
        EXPECT_EQ(Draw(flat, cuts, 1 - 0x1p-53), kept - 1) << n;
        EXPECT_EQ(Draw(flat, cuts, (kept - 0.5) / kept), kept - 1) << n;
      }
    }
  }
}

TEST(TokenDraw, KeepsTheBestTokenWhateverIsCut) {
  const std::vector<float> row = Normal(1000, 1, 3);
  const TokenId best = ArgMax(row);
  for (double uniform : {0.0, 0.5, 1 - 0x1p-53}) {
    EXPECT_EQ(Draw(row, {.top_k = 1}, uniform), best);
    EXPECT_EQ(Draw(row, {.top_p = 1e-30}, uniform), best);
    EXPECT_EQ(Draw(row, {.min_p = 1}, uniform), best);
    EXPECT_EQ(Draw(row, {.temperature = 1e-38f}, uniform), best);
    EXPECT_EQ(Draw(row, {.temperature = std::numeric_limits<float>::denorm_min()}, uniform), best);
  }
}

TEST(TokenDraw, SurvivesLogitsAtTheEndsOfTheFloats) {
  const float most = std::numeric_limits<float>::max();
  std::vector<float> row(600, -most);
  row[300] = most;
  for (const Cuts& cuts : {Cuts{}, Cuts{.top_k = 5}, Cuts{.top_k = 500}, Cuts{.top_p = 0.999}, Cuts{.min_p = 0.5f}})
    EXPECT_EQ(Draw(row, cuts, 0.999), 300);
  row.assign(600, -most);
  EXPECT_EQ(Draw(row, {.top_p = 0.5}, 1 - 0x1p-53), 299);
  row.assign(600, most);
  EXPECT_EQ(Draw(row, {.top_p = 0.5}, 1 - 0x1p-53), 299);
}

TEST(TokenDraw, IsTheSameOnEveryLevelAndAfterOtherRows) {
  for (int n : {300, 5000, 128000}) {
    TokenDraw used;
    for (const std::vector<float>& row : Rows(n)) {
      for (const Cuts& cuts : {Cuts{}, Cuts{.temperature = 0.7f, .min_p = 0.1f}, Cuts{.top_k = 40}, Cuts{.top_p = 0.9},
                               Cuts{.temperature = 2, .top_k = 2000, .top_p = 0.7, .min_p = 0.001f}}) {
        for (double uniform : {0.1, 0.77, 0.99999}) {
          std::vector<TokenId> tokens;
          for (const CpuLevel* level : SupportedCpuLevels()) {
            const ScopedCpuLevel scope(level);
            tokens.push_back(Draw(row, cuts, uniform));
          }
          LogitRow again;
          again.Read(row);
          used.Start(&again, cuts.temperature);
          if (cuts.top_k > 0) used.KeepBest(cuts.top_k);
          if (cuts.top_p < 1) used.KeepMass(cuts.top_p);
          tokens.push_back(used.Draw(cuts.min_p, uniform));
          EXPECT_EQ(tokens, std::vector<TokenId>(tokens.size(), tokens[0])) << n;
        }
      }
    }
  }
}

TEST(LogitRow, BarsAreReachedByAsManyAsAskedFor) {
  for (const std::vector<float>& logits : Rows(3000)) {
    LogitRow row;
    row.Read(logits);
    for (size_t count : {1, 2, 11, 12, 13, 3000}) {
      std::vector<ScoredToken> found;
      row.Find(row.ReachedBy(count), kInfinity, &found);
      const auto all =
          static_cast<size_t>(std::count_if(logits.begin(), logits.end(), [](float x) { return x > -kInfinity; }));
      EXPECT_GE(found.size(), std::min(count, all));
    }
    EXPECT_EQ(row.Best(), std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

}  // namespace
}  // namespace braid
