#include "kernels/cuda/draw_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/random_weights.h"
#include "tests/cuda_emulator/global_array.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Row {
  std::vector<float> logits;
  float temperature = 0, min_share = 0;
  double uniform = 0;
};

std::vector<int32_t> Draw(const std::vector<Row>& rows) {
  std::vector<float> logits, temperatures, min_shares;
  std::vector<double> uniforms;
  for (const Row& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    temperatures.push_back(row.temperature), min_shares.push_back(row.min_share), uniforms.push_back(row.uniform);
  }
  GlobalArray<float> logit_array(logits), temperature_array(temperatures), share_array(min_shares);
  GlobalArray<double> uniform_array(uniforms);
  GlobalArray<int32_t> tokens(rows.size());
  const DrawTokens op{static_cast<int>(rows.size()),
                      static_cast<int>(rows[0].logits.size()),
                      logit_array.data(),
                      temperature_array.data(),
                      share_array.data(),
                      uniform_array.data(),
                      tokens.data()};
  EXPECT_TRUE(Check(op).ok()) << Check(op);
  EXPECT_EQ(Run(op, nullptr), cudaSuccess);
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

TEST(DrawTokensKernel, SaysWhereThereIsNoToken) {
  std::vector<float> nan(16, 1), none(16, -INFINITY), infinite(16, 1);
  nan[9] = NAN, infinite[3] = INFINITY;
  EXPECT_EQ(Draw({{nan}, {none}, {infinite}, {nan, 1}, {none, 1}, {infinite, 1}}), std::vector<int32_t>(6, -1));
}

TEST(DrawTokens, CheckNamesWhatIsWrong) {
  alignas(16) float number = 0;
  EXPECT_EQ(Check(DrawTokens{1, 12, &number}).message(), "V must be a multiple of 8, at most 1048576");
  EXPECT_EQ(Check(DrawTokens{1, 8, &number}).message(), "logits, temperature, uniform and tokens must be set");
}

}  // namespace
}  // namespace braid::gpu
