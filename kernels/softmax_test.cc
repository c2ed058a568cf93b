#include "kernels/softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/level.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Lengths around the sixteen lanes and the block.
constexpr int kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 255, 256};

std::vector<float> Logits(RandomNumbers& random, int n) {
  std::vector<float> x = random.Floats(n, 12);
  for (int i = 0; i < n; i += 7) x[i] = std::round(x[i]);  // some are equal
  if (n > 20) x[11] = -kInfinity, x[n - 1] = -1000;
  return x;
}

SoftmaxWeights Weights(const std::vector<float>& x, float temperature) {
  const float inverse = 1 / temperature;
  return {.max = *std::max_element(x.begin(), x.end()), .inverse_temperature = inverse, .bucket_scale = inverse};
}

TEST(BlockMaxima, AreThoseOfTheBlocks) {
  RandomNumbers random(1);
  for (int n : {1, 5, 255, 256, 257, 511, 512, 513, 5000}) {
    const std::vector<float> x = random.Floats(n, 5);
    for (const CpuLevel* level : SupportedCpuLevels()) {
      const ScopedCpuLevel scope(level);
      std::vector<float> maxima(LogitBlocks(n) + 1, 77.0f);
      EXPECT_TRUE(BlockMaxima(x.data(), n, maxima.data()));
      for (int b = 0; b < LogitBlocks(n); ++b) {
        const auto begin = x.begin() + b * kLogitBlock, end = x.begin() + std::min(n, (b + 1) * kLogitBlock);
        EXPECT_EQ(maxima[b], *std::max_element(begin, end)) << level->name << " " << n << " " << b;
      }
      EXPECT_EQ(maxima.back(), 77.0f);
    }
  }
}

TEST(BlockMaxima, SeeEveryValueThatIsNotFinite) {
  for (const CpuLevel* level : SupportedCpuLevels()) {
    const ScopedCpuLevel scope(level);
    for (int n : {256, 512, 530}) {
      for (int at = 0; at < n; ++at) {
        for (float bad : {kInfinity, -kInfinity, std::nanf("")}) {
          std::vector<float> x(n, std::numeric_limits<float>::max()), maxima(LogitBlocks(n));
          x[at] = bad;
          ASSERT_FALSE(BlockMaxima(x.data(), n, maxima.data())) << level->name << " " << n << " " << at << " " << bad;
        }
      }
    }
  }
}

TEST(BlockMaxima, CountMinusInfinityAsAValue) {
  for (const CpuLevel* level : SupportedCpuLevels()) {
    const ScopedCpuLevel scope(level);
    std::vector<float> x(600, -kInfinity), maxima(3);
    x[300] = -5;
    EXPECT_FALSE(BlockMaxima(x.data(), 600, maxima.data()));
    EXPECT_EQ(maxima, (std::vector<float>{-kInfinity, -5, -kInfinity})) << level->name;
  }
}

TEST(Weigh, AgreesWithTheReference) {
  RandomNumbers random(2);
  for (int n : kLengths) {
    const std::vector<float> x = Logits(random, n);
    for (float temperature : {0.01f, 0.7f, 1.0f, 2.0f}) {
      SoftmaxWeights weights = Weights(x, temperature);
      std::vector<double> want(n);
      std::vector<float> got(n + 1, 77.0f);
      const double want_sum = ref::Weigh(weights, x.data(), n, want.data());
      const double sum = Weigh(weights, x.data(), n, got.data());
      for (int i = 0; i < n; ++i) {
        // Two roundings of an argument that is at most 90, where the weight is not 0 anyway; four ulp of its own.
        ASSERT_NEAR(got[i], want[i], want[i] * (2 * 90 + 4) * 0x1p-23 + 1e-37) << i << " of " << n;
        ASSERT_EQ(got[i], weights.Weight(x[i]));
      }
      EXPECT_NEAR(sum, want_sum, want_sum * 1e-6);
      EXPECT_EQ(got[n], 77.0f) << "written behind the end";
    }
  }
}

TEST(Weigh, LeavesOutWhatIsBelowTheBounds) {
  std::vector<float> x, w(200);
  for (int i = 0; i < 200; ++i) x.push_back(-0.1f * static_cast<float>(i));
  SoftmaxWeights weights;
  weights.logit_min = x[17];
  EXPECT_GT(Weigh(weights, x.data(), 200, w.data()), 0);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(w[i] > 0, i <= 17) << i;
  weights.logit_min = -100;
  weights.weight_min = 0.5f;  // e^-0.69
  Weigh(weights, x.data(), 200, w.data());
  for (int i = 0; i < 200; ++i) EXPECT_EQ(w[i] > 0, i <= 6) << i;
  EXPECT_EQ(Weigh(weights, x.data(), 0, w.data()), 0);
}

TEST(AddToBuckets, PutsEveryWeightIntoTheBucketOfItsLogit) {
  RandomNumbers random(3);
  for (int n : kLengths) {
    const std::vector<float> x = Logits(random, n);
    for (float temperature : {0.01f, 1.0f, 2.0f}) {
      const SoftmaxWeights weights = Weights(x, temperature);
      std::vector<double> want(4 * SoftmaxWeights::kBuckets);
      for (int i = 0; i < n; ++i) want[4 * weights.Bucket(x[i]) + i % 4] += weights.Weight(x[i]);
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        std::vector<double> got(want.size());
        AddToBuckets(weights, x.data(), n, reinterpret_cast<BucketSums*>(got.data()));
        EXPECT_EQ(got, want) << level->name << " " << n;
      }
    }
  }
}

TEST(SoftmaxWeights, TheBucketOfAHigherLogitIsNotLater) {
  RandomNumbers random(4);
  for (float scale : {0.5f, 1.0f, 1000.0f, 1e38f}) {
    SoftmaxWeights weights{.max = 3, .bucket_scale = scale};
    std::vector<float> x = random.Floats(2000, 3);
    for (int i = 0; i < 100; ++i) x.push_back(std::nextafter(x[i], kInfinity));
    x.insert(x.end(), {3.0f, -3e38f, -kInfinity});
    std::sort(x.begin(), x.end(), std::greater<float>());
    EXPECT_EQ(weights.Bucket(x.front()), 0);
    EXPECT_EQ(weights.Bucket(x.back()), SoftmaxWeights::kBuckets - 1);
    for (size_t i = 1; i < x.size(); ++i) ASSERT_LE(weights.Bucket(x[i - 1]), weights.Bucket(x[i]));
  }
  const SoftmaxWeights one;
  EXPECT_LT(one.Bucket(-87.3f), SoftmaxWeights::kBuckets - 1) << "something that has a weight";
}

TEST(FindInRange, FindsTheLowEndButNotTheHighOne) {
  RandomNumbers random(5);
  for (int n : kLengths) {
    const std::vector<float> x = Logits(random, n);
    for (const auto& [low, high] : {std::pair{-3.0f, 4.0f}, {-kInfinity, kInfinity}, {x[0], x[0]}, {x[0], kInfinity}}) {
      std::vector<int32_t> want;
      for (int i = 0; i < n; ++i)
        if (x[i] >= low && x[i] < high) want.push_back(i);
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        std::vector<int32_t> found(n);
        found.resize(FindInRange(x.data(), n, low, high, found.data()));
        EXPECT_EQ(found, want) << level->name << " " << n;
      }
    }
  }
}

TEST(Softmax, HasTheSameBitsOnEveryLevel) {
  RandomNumbers random(6);
  for (int n : kLengths) {
    const std::vector<float> x = Logits(random, n);
    for (float temperature : {1e-30f, 0.6f, 2.0f}) {
      SoftmaxWeights weights = Weights(x, temperature);
      weights.logit_min = -11;
      weights.weight_min = 1e-5f;
      std::vector<float> first(n);
      double first_sum = 0;
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        std::vector<float> w(n);
        const double sum = Weigh(weights, x.data(), n, w.data());
        if (level == SupportedCpuLevels().front()) first = w, first_sum = sum;
        EXPECT_EQ(std::memcmp(w.data(), first.data(), n * sizeof(float)), 0) << level->name << " " << n;
        EXPECT_EQ(sum, first_sum) << level->name << " " << n;
      }
    }
  }
}

}  // namespace
}  // namespace braid
