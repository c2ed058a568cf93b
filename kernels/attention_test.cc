#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "kernels/cpu/level.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr int kTokens = 75, kBlockTokens = 32;

// One sequence of kTokens positions over blocks that lie scattered in the arena.
struct Sequence {
  Sequence(int heads, int kv_heads, int head_dim)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim), kv_dim(kv_heads * head_dim) {
    RandomNumbers random(6);
    memory = random.Floats(size_t{6} * 2 * kBlockTokens * kv_dim);
    q = random.Floats(size_t{kTokens} * heads * head_dim, 3);
    for (int t = 0; t < kTokens; ++t) rows.push_back({blocks, t});
    arena = {memory.data(), memory.data() + kBlockTokens * kv_dim, int64_t{2} * kBlockTokens * kv_dim, kBlockTokens,
             kv_dim};
  }
  Attention Op(int first, int T, float* y) {
    return {T, heads, kv_heads, head_dim, &q[first * heads * head_dim], &rows[first], arena, y};
  }
  size_t Width() const { return static_cast<size_t>(heads) * head_dim; }

  int heads, kv_heads, head_dim, kv_dim;
  const int32_t blocks[3] = {4, 1, 5};
  std::vector<float> memory, q;
  std::vector<KvRow> rows;
  KvArena arena;
};

TEST(Attention, AgreesWithTheReference) {
  ThreadPool pool(2);
  for (const auto& [heads, kv_heads, head_dim] : {std::array{4, 1, 64}, {6, 2, 8}, {3, 3, 72}, {8, 2, 128}}) {
    Sequence sequence(heads, kv_heads, head_dim);
    std::vector<float> got(kTokens * sequence.Width()), want(got.size());
    const Attention op = sequence.Op(0, kTokens, got.data());
    ASSERT_TRUE(Check(op).ok());
    braid::Run(op, pool);
    ref::Run(sequence.Op(0, kTokens, want.data()));
    // Scores are below 3 * sqrt(dim), so a relative error of dim * eps in them is the error of the probabilities;
    // values are below 1.
    const float bound = (3 * std::sqrt(static_cast<float>(head_dim)) * head_dim + kTokens) * 0x1p-24f;
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << i;
  }
}

TEST(Attention, GivesARowTheSameBitsHoweverTheStepIsCut) {
  Sequence sequence(4, 2, 40);
  ThreadPool one(1);
  std::vector<float> whole(kTokens * sequence.Width());
  braid::Run(sequence.Op(0, kTokens, whole.data()), one);
  for (int threads : {1, 2, 3, 4}) {
    ThreadPool pool(threads);
    for (int T : {1, 5, 31, 33}) {
      std::vector<float> cut(whole.size());
      for (int first = 0; first < kTokens; first += T)
        braid::Run(sequence.Op(first, std::min(T, kTokens - first), &cut[first * sequence.Width()]), pool);
      ASSERT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * sizeof(float)), 0) << T << " on " << threads;
    }
  }
}

TEST(Attention, GivesTheSameBitsOnEveryLevel) {
  Sequence sequence(4, 2, 72);
  ThreadPool pool(1);
  std::vector<float> portable;
  for (const CpuLevel* level : SupportedCpuLevels()) {
    const ScopedCpuLevel scope(level);
    std::vector<float> y(kTokens * sequence.Width());
    braid::Run(sequence.Op(0, kTokens, y.data()), pool);
    if (portable.empty()) portable = y;
    EXPECT_EQ(y, portable) << level->name;
  }
}

TEST(Attention, DoesNotSeePositionsAfterItsOwn) {
  Sequence sequence(2, 1, 16);
  ThreadPool pool(1);
  std::vector<float> before(sequence.Width()), after(sequence.Width());
  braid::Run(sequence.Op(40, 1, before.data()), pool);
  for (int position = 41; position < kTokens; ++position) {
    std::fill_n(sequence.arena.key(sequence.rows[0], position), sequence.kv_dim, NAN);
    std::fill_n(sequence.arena.value(sequence.rows[0], position), sequence.kv_dim, NAN);
  }
  braid::Run(sequence.Op(40, 1, after.data()), pool);
  EXPECT_EQ(before, after);
}

TEST(Attention, SurvivesScoresThatWouldOverflowExp) {
  Sequence sequence(1, 1, 8);
  for (float& q : sequence.q) q *= 1e4f;
  ThreadPool pool(1);
  std::vector<float> y(kTokens * sequence.Width());
  braid::Run(sequence.Op(0, kTokens, y.data()), pool);
  for (float value : y) ASSERT_TRUE(std::abs(value) <= 1);
}

TEST(KvStore, PutsEachRowAtItsPosition) {
  Sequence sequence(2, 2, 8);
  ThreadPool pool(2);
  RandomNumbers random(7);
  const std::vector<float> k = random.Floats(70 * 16), v = random.Floats(70 * 16);
  const KvStore op{70, k.data(), v.data(), &sequence.rows[5], sequence.arena};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  for (int t = 0; t < 70; ++t) {
    const int position = t + 5, block = sequence.blocks[position / 32];
    const float* at = &sequence.memory[(block * 2 * 32 + position % 32) * 16];
    ASSERT_EQ(std::memcmp(at, &k[t * 16], 16 * sizeof(float)), 0) << t;
    ASSERT_EQ(std::memcmp(at + 32 * 16, &v[t * 16], 16 * sizeof(float)), 0) << t;
  }
}

TEST(Attention, RefusesHeadsThatDoNotFit) {
  Sequence sequence(4, 2, 8);
  std::vector<float> y(sequence.Width());
  Attention op = sequence.Op(0, 1, y.data());
  op.heads = 3;
  EXPECT_FALSE(Check(op).ok());
  op = sequence.Op(0, 1, y.data());
  op.head_dim = 12;
  EXPECT_FALSE(Check(op).ok());
  op = sequence.Op(0, 1, y.data());
  op.arena.block_tokens = 65;
  EXPECT_FALSE(Check(op).ok());
}

}  // namespace
}  // namespace braid
