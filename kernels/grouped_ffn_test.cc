#include "kernels/grouped_ffn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/linear.h"
#include "kernels/pointwise.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr int kD = 64, kF = 96, kR = 37;

struct Experts {
  Experts() {
    RandomNumbers random(14);
    for (int e = 0; e < 3; ++e) {
      gate.emplace_back(random, DType::kQ4_0, kF, kD);
      up.emplace_back(random, DType::kQ8_0, kF, kD);
      down.emplace_back(random, DType::kF16, kD, kF);
    }
    x = random.Floats(kR * kD);
  }
  FfnGroup Group(int e, int begin, int end) const {
    return {begin, end, gate[e].matrix(), up[e].matrix(), down[e].matrix()};
  }
  std::vector<RandomMatrix> gate, up, down;
  std::vector<float> x;
};

TEST(GroupedFfn, IsTheFeedForwardOfEachGroup) {
  const Experts experts;
  ThreadPool pool(2);
  GroupedFfnScratch scratch;
  const FfnGroup groups[] = {experts.Group(2, 0, 1), experts.Group(0, 1, 7), experts.Group(1, 7, kR)};
  std::vector<float> y(kR * kD), gate(kR * kF), up(kR * kF), want(kR * kD);
  const GroupedFfn op{kR, kD, kF, groups, experts.x.data(), y.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, scratch, pool);
  for (const FfnGroup& group : groups) {
    const int rows = group.end - group.begin;
    ref::Run(Linear{rows, group.gate, &experts.x[group.begin * kD], gate.data()});
    ref::Run(Linear{rows, group.up, &experts.x[group.begin * kD], up.data()});
    ref::Run(SwiGlu{rows * kF, gate.data(), up.data(), gate.data()});
    ref::Run(Linear{rows, group.down, gate.data(), &want[group.begin * kD]});
  }
  // Weights are about 1 / sqrt(K) and x about 1, so every sum of |w x| is below sqrt(3 K) times a small factor.
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], want[i], kF * 16 * 0x1p-24f) << i;
}

TEST(GroupedFfn, GivesARowTheSameBitsInAnyGroup) {
  const Experts experts;
  std::vector<float> alone(kR * kD);
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    GroupedFfnScratch scratch;
    for (int r = 0; r < kR; ++r) {
      const FfnGroup group = experts.Group(r < 20 ? 0 : 1, 0, 1);
      braid::Run(GroupedFfn{1, kD, kF, {&group, 1}, &experts.x[r * kD], &alone[r * kD]}, scratch, pool);
    }
    const FfnGroup groups[] = {experts.Group(0, 0, 20), experts.Group(1, 20, kR)};
    std::vector<float> y(kR * kD);
    braid::Run(GroupedFfn{kR, kD, kF, groups, experts.x.data(), y.data()}, scratch, pool);
    ASSERT_EQ(y, alone) << threads;
  }
}

TEST(GroupedFfn, RefusesWeightsOfAnotherShape) {
  const Experts experts;
  std::vector<float> y(kR * kD);
  FfnGroup group = experts.Group(0, 0, kR);
  std::swap(group.up, group.down);
  EXPECT_FALSE(Check(GroupedFfn{kR, kD, kF, {&group, 1}, experts.x.data(), y.data()}).ok());
  group = experts.Group(0, 1, kR);
  EXPECT_FALSE(Check(GroupedFfn{kR, kD, kF, {&group, 1}, experts.x.data(), y.data()}).ok());
}

}  // namespace
}  // namespace braid
