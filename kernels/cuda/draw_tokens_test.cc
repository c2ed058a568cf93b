// What becomes of a row of logits: edits, a token, and drafts that it confirms.

#include "kernels/cuda/draw_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/edit_logits.h"
#include "kernels/cuda/verify_drafts.h"
#include "kernels/random_weights.h"
#include "tests/cuda_emulator/global_array.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Row {
  std::vector<float> logits;
  float temperature = 0, min_share = 0;
  double uniform = 0;
  int top_k = 0;
  float top_p = 1;
};

std::vector<int32_t> Draw(const std::vector<Row>& rows) {
  std::vector<float> logits, temperatures, top_ps, min_shares;
  std::vector<int32_t> top_ks;
  bool cuts = false;
  std::vector<double> uniforms;
  for (const Row& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    temperatures.push_back(row.temperature), min_shares.push_back(row.min_share), uniforms.push_back(row.uniform);
    top_ks.push_back(row.top_k), top_ps.push_back(row.top_p);
    cuts = cuts || row.top_k > 0 || row.top_p < 1;
  }
  GlobalArray<float> logit_array(logits), temperature_array(temperatures), share_array(min_shares);
  GlobalArray<double> uniform_array(uniforms);
  GlobalArray<int32_t> top_k_array(top_ks);
  GlobalArray<float> top_p_array(top_ps);
  GlobalArray<int32_t> tokens(rows.size());
  const DrawTokens op{static_cast<int>(rows.size()),
                      static_cast<int>(rows[0].logits.size()),
                      logit_array.data(),
                      temperature_array.data(),
                      cuts ? top_k_array.data() : nullptr,
                      cuts ? top_p_array.data() : nullptr,
                      share_array.data(),
                      uniform_array.data(),
                      tokens.data()};
  EXPECT_TRUE(Check(op).ok()) << Check(op);
  EXPECT_EQ(gpu::Run(op, nullptr), cudaSuccess);
  return tokens.values();
}

TEST(DrawTokensKernel, TakesTheHighestLogitAndTheLowerIdOnATie) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(static_cast<uint32_t>(seed));
    for (const int V : {8, 256, 264, 5000}) {
      std::vector<Row> rows(3);
      for (Row& row : rows) row.logits = random.Floats(V, 5);
      rows[1].logits[V - 1] = rows[1].logits[V / 2] = 6;
      rows[2].logits.assign(V, -2);
      const std::vector<int32_t> tokens = Draw(rows);
      const std::vector<float>& first = rows[0].logits;
      EXPECT_EQ(tokens[0], std::max_element(first.begin(), first.end()) - first.begin());
      EXPECT_EQ(tokens[1], V / 2);
      EXPECT_EQ(tokens[2], 0);
    }
  }
}

// The sums of probabilities before and after the token, in double, are on either side of `uniform`, but for the errors
// of weights: of the exponent, (|x - max| scale + 2) u, and 2 u of 2^x.
TEST(DrawTokensKernel, DrawsWhereTheSumOfProbabilitiesPassesTheUniformNumber) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(static_cast<uint32_t>(seed));
    for (const int V : {8, 264, 3000}) {
      std::vector<Row> rows;
      for (int i = 0; i < 8; ++i) {
        Row row{random.Floats(V, 8), i % 2 == 0 ? 0.7f : 1.5f, i % 3 == 0 ? 0.05f : 0.0f,
                (random.Float() + 1) / 2.0 * 0.999999};
        row.logits[random.Below(V)] = -INFINITY;
        rows.push_back(row);
      }
      const std::vector<int32_t> tokens = Draw(rows);
      for (size_t r = 0; r < rows.size(); ++r) {
        const Row& row = rows[r];
        const double max = *std::max_element(row.logits.begin(), row.logits.end());
        std::vector<double> weight;
        double total = 0, before = 0;
        for (float logit : row.logits) {
          const double w = std::exp((logit - max) / row.temperature);
          weight.push_back(w < row.min_share ? 0 : w);
          total += weight.back();
        }
        ASSERT_TRUE(tokens[r] >= 0 && tokens[r] < V && weight[tokens[r]] > 0);
        for (int i = 0; i < tokens[r]; ++i) before += weight[i];
        const double slack = (16 / 0.7 * 1.4427 + 4) * 0x1p-23;
        EXPECT_LE(before / total, row.uniform + slack) << r;
        EXPECT_GE((before + weight[tokens[r]]) / total, row.uniform - slack) << r;
      }
      for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(Draw({rows[r]})[0], tokens[r]) << "alone";
    }
  }
}

TEST(DrawTokensKernel, DrawsTheFirstAndTheLastTokenAtTheEnds) {
  const std::vector<float> even(512, 1.0f);
  EXPECT_EQ(Draw({{even, 1, 0, 0}, {even, 1, 0, std::nextafter(1.0, 0.0)}, {even, 1, 0, 255.5 / 512}}),
            (std::vector<int32_t>{0, 511, 255}));
  std::vector<float> one(512, -INFINITY);
  one[300] = 5;
  EXPECT_EQ(Draw({{one, 1, 0, 0.9}, {one, 1e-45f, 0, 0.9}, {one, 1, 1, 0}}), (std::vector<int32_t>(3, 300)));
}

// By sorting, in double: what is left of a row once it is cut off.
struct Reference {
  std::vector<double> weights;  // by id, 0 if cut off
  double total = 0;
  // That a cut is as near to being somewhere else as the errors of weights.
  bool close = false;
};
Reference Sorted(const Row& row) {
  Reference reference;
  std::vector<int> order;
  for (int id = 0; id < static_cast<int>(row.logits.size()); ++id)
    if (row.logits[id] > -INFINITY) order.push_back(id);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row.logits[a] > row.logits[b]; });
  if (row.top_k > 0 && row.top_k < static_cast<int>(order.size())) order.resize(row.top_k);
  const auto weight = [&](int id) {
    return std::exp((double{row.logits[id]} - row.logits[order[0]]) / row.temperature);
  };
  double mass = 0, sum = 0;
  for (int id : order) mass += weight(id);
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || row.top_p == 1 || sum < row.top_p * mass)) {
    sum += weight(order[kept++]);
    reference.close = reference.close || (row.top_p < 1 && std::abs(sum - row.top_p * mass) < 1e-5 * mass);
  }
  order.resize(kept);
  reference.weights.resize(row.logits.size());
  for (int id : order) {
    if (row.min_share > 0) reference.close = reference.close || std::abs(weight(id) / row.min_share - 1) < 1e-4;
    if (weight(id) >= row.min_share) reference.total += reference.weights[id] = weight(id);
  }
  return reference;
}

void ExpectDrawnFromWhatIsLeft(const Row& row, int token) {
  const Reference reference = Sorted(row);
  if (reference.close) return;
  SCOPED_TRACE(testing::Message() << row.logits.size() << " logits, top_k " << row.top_k << ", top_p " << row.top_p
                                  << ", min_share " << row.min_share << ", temperature " << row.temperature);
  ASSERT_TRUE(token >= 0 && token < static_cast<int>(row.logits.size()));
  ASSERT_GT(reference.weights[token], 0) << token;
  double before = 0;
  for (int id = 0; id < token; ++id) before += reference.weights[id];
  EXPECT_LE(before / reference.total, row.uniform + 2e-5);
  EXPECT_GE((before + reference.weights[token]) / reference.total, row.uniform - 2e-5);
}

TEST(DrawTokensKernel, CutsARowOffWhereSortingItSays) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(static_cast<uint32_t>(seed));
    for (const int V : {8, 264, 2600}) {
      std::vector<Row> rows;
      for (const int top_k : {0, 1, 3, V / 2, V - 1, V, 2 * V}) {
        for (const float top_p : {1.0f, 0.9f, 0.3f, 1e-6f, 0.9999999f}) {
          Row row{random.Floats(V, 8),
                  top_k % 2 == 0 ? 0.7f : 1.5f,
                  random.Below(3) == 0 ? 0.05f : 0.0f,
                  (random.Float() + 1) / 2.0 * 0.999999,
                  top_k,
                  top_p};
          if (random.Below(2) == 0) {  // many are equal, and on both sides of zero
            for (float& logit : row.logits) logit = std::round(logit / 2);
          }
          for (int i = 0; i < V / 8; ++i) row.logits[random.Below(V)] = random.Below(2) == 0 ? -INFINITY : -0.0f;
          rows.push_back(std::move(row));
        }
      }
      if (V > 264) rows.resize(8);
      const std::vector<int32_t> tokens = Draw(rows);
      for (size_t r = 0; r < rows.size(); ++r) ExpectDrawnFromWhatIsLeft(rows[r], tokens[r]);
      for (size_t r = 0; r < rows.size(); r += 5) EXPECT_EQ(Draw({rows[r]})[0], tokens[r]) << "alone";
    }
  }
}

TEST(DrawTokensKernel, KeepsTheLowerIdsOfEqualLogits) {
  std::vector<float> logits(600, 1.0f);
  logits[599] = 2;
  const double last = std::nextafter(1.0, 0.0);
  // The best one and the ids 0 to 298; half of a mass of 600 equal ones.
  EXPECT_EQ(Draw({{logits, 1, 0, 0.0, 300}, {logits, 1e30f, 0, 0.996, 300}, {logits, 1e30f, 0, last, 300}}),
            (std::vector<int32_t>{0, 298, 599}));
  const std::vector<float> even(600, -3.0f);
  EXPECT_EQ(Draw({{even, 1, 0, last, 0, 0.5f}, {even, 1, 0, last, 7, 0.5f}, {even, 1, 0, last, 7}, {even, 1, 0, 0, 1}}),
            (std::vector<int32_t>{299, 3, 6, 0}));
}

TEST(DrawTokensKernel, DrawsTheSameWhetherOthersAreCutOffOrNot) {
  RandomNumbers random(3);
  const Row plain{random.Floats(512, 4), 0.8f, 0.01f, 0.77};
  Row cut = plain;
  cut.top_k = 2;
  EXPECT_EQ(Draw({plain, cut})[0], Draw({plain})[0]);
}

TEST(DrawTokensKernel, SaysWhereThereIsNoToken) {
  std::vector<float> nan(16, 1), none(16, -INFINITY), infinite(16, 1);
  nan[9] = NAN, infinite[3] = INFINITY;
  EXPECT_EQ(Draw({{nan}, {none}, {infinite}, {nan, 1}, {none, 1}, {infinite, 1}}), std::vector<int32_t>(6, -1));
  EXPECT_EQ(Draw({{nan, 1, 0, 0, 2}, {none, 1, 0, 0, 2, 0.5f}, {infinite, 1, 0, 0, 2}}), std::vector<int32_t>(3, -1));
}

// The CPU's arithmetic, see expert_worker/sampler.cc.
float Edited(float logit, const LogitEdit& edit, float repetition, float presence, float frequency) {
  logit += edit.bias;
  if (edit.all == 0) return logit;
  logit = logit > 0 ? logit / repetition : logit * repetition;
  if (edit.answer > 0) logit -= presence + frequency * static_cast<float>(edit.answer);
  return std::clamp(logit, -1e30f, 1e30f);
}

TEST(EditLogitsKernel, GivesTheBitsOfTheCpu) {
  constexpr int kT = 3, kV = 40;
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    RandomNumbers random(static_cast<uint32_t>(seed));
    std::vector<float> want = random.Floats(kT * kV, 9);
    want[2 * kV + 7] = 1e20f;
    GlobalArray<float> logits(want);
    const std::vector<float> repetition = {1.1f, 1, 1e-20f}, presence = {0.5f, -2, 0}, frequency = {0.1f, 1.5f, -0.3f};
    GlobalArray<float> repetitions(repetition), presences(presence), frequencies(frequency);
    GlobalArray<int32_t> masked(std::vector<int32_t>{39, 11});
    std::vector<LogitEdit> edits;
    for (int row = 0; row < kT; ++row) {
      for (int token = row; token < 36; token += 4) {
        if (token == 11) continue;
        const int all = random.Below(4);
        edits.push_back({row, token, random.Below(2) == 0 ? 0.0f : random.Float(100), all, random.Below(all + 1)});
      }
    }
    for (const LogitEdit& edit : edits) {
      float& logit = want[edit.row * kV + edit.token];
      logit = Edited(logit, edit, repetition[edit.row], presence[edit.row], frequency[edit.row]);
    }
    for (int row = 0; row < kT; ++row) want[row * kV + 39] = want[row * kV + 11] = -INFINITY;
    GlobalArray<LogitEdit> edit_array(edits);
    const EditLogits op{kT,
                        kV,
                        logits.data(),
                        edit_array.data(),
                        static_cast<int>(edits.size()),
                        repetitions.data(),
                        presences.data(),
                        frequencies.data(),
                        masked.data(),
                        2};
    ASSERT_TRUE(Check(op).ok()) << Check(op);
    ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
    const std::vector<float> got = logits.values();
    for (int i = 0; i < kT * kV; ++i) EXPECT_EQ(std::memcmp(&got[i], &want[i], 4), 0) << got[i] << " " << want[i];
  }
}

TEST(EditLogitsKernel, LeavesWhatNobodyWantsChanged) {
  GlobalArray<float> logits(std::vector<float>{1, 2});
  EXPECT_EQ(gpu::Run(EditLogits{1, 2, logits.data()}, nullptr), cudaSuccess);
  EXPECT_EQ(logits.values(), (std::vector<float>{1, 2}));
}

TEST(VerifyDraftsKernel, CountsTheDraftsThatAreRight) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    // Sequences: all three right; the second one wrong; no draft; no row; a row without a token behind a right draft;
    // none right; no token at all.
    GlobalArray<int32_t> first_rows(std::vector<int32_t>{0, 4, 8, 9, 9, 12, 14, 16});
    GlobalArray<int32_t> inputs(std::vector<int32_t>{9, 1, 2, 3, 9, 1, 2, 3, 9, 9, 1, 2, 9, 5, 9, 1});
    GlobalArray<int32_t> drawn(std::vector<int32_t>{1, 2, 3, 4, 1, 7, 3, 4, 6, 1, -1, 8, 1, 8, -1, 3});
    GlobalArray<int32_t> right(7), last(7);
    const VerifyDrafts op{7, first_rows.data(), inputs.data(), drawn.data(), right.data(), last.data()};
    ASSERT_TRUE(Check(op).ok()) << Check(op);
    ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
    EXPECT_EQ(right.values(), (std::vector<int32_t>{3, 1, 0, 0, 0, 0, 0}));
    EXPECT_EQ(last.values(), (std::vector<int32_t>{4, 7, 6, -1, 1, 1, -1}));
  }
}

TEST(VerifyDraftsKernel, TakesMoreSequencesThanABlockHasThreads) {
  constexpr int kS = 200;
  std::vector<int32_t> first(kS + 1), tokens(2 * kS);
  for (int s = 0; s <= kS; ++s) first[s] = 2 * s;
  for (int row = 0; row < 2 * kS; ++row) tokens[row] = row;
  std::vector<int32_t> next(tokens);
  for (int s = 0; s < kS; ++s) next[2 * s] = tokens[2 * s + 1] + s % 2;
  GlobalArray<int32_t> first_rows(first), inputs(tokens), drawn(next), right(kS), last(kS);
  const VerifyDrafts op{kS, first_rows.data(), inputs.data(), drawn.data(), right.data(), last.data()};
  ASSERT_EQ(gpu::Run(op, nullptr), cudaSuccess);
  for (int s = 0; s < kS; ++s) EXPECT_EQ(right[s], 1 - s % 2) << s;
}

TEST(DrawTokens, CheckNamesWhatIsWrong) {
  alignas(16) float number = 0;
  EXPECT_EQ(Check(DrawTokens{1, 12, &number}).message(), "V must be a multiple of 8, at most 1048576");
  EXPECT_EQ(Check(DrawTokens{1, 8, &number}).message(), "logits, temperature, uniform and tokens must be set");
  EXPECT_EQ(Check(EditLogits{1, 8, &number, nullptr, 1}).message(), "edits must be set");
  EXPECT_EQ(Check(EditLogits{1, 8, &number, nullptr, 0, &number}).message(),
            "repetition, presence and frequency go together");
  EXPECT_EQ(Check(VerifyDrafts{1}).message(), "first_rows, inputs, drawn, right and last must be set");
}

}  // namespace
}  // namespace braid::gpu
