#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/level.h"
#include "kernels/half.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr KvType kTypes[] = {KvType::kBFloat16, KvType::kInt8};

// One sequence of `tokens` positions over blocks that lie in the arena in descending order. What no position owns is
// NaN, in int8 by its scale.
struct Sequence {
  Sequence(int heads, int kv_heads, int head_dim, int tokens, KvType type = KvType::kBFloat16)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim), tokens(tokens) {
    RandomNumbers random(6);
    for (int i = (tokens - 1) / KvArena::kBlockTokens; i >= 0; --i) blocks.push_back(i + 1);
    const int64_t block_bytes = KvArena::BlockBytes(type, kv_heads, head_dim) + 64;
    memory.assign((blocks.size() + 2) * static_cast<size_t>(block_bytes), std::byte{0xFF});
    arena = {memory.data(), block_bytes, kv_heads, head_dim, type};
    q = random.Floats(size_t(tokens) * heads * head_dim, 3);
    k = random.Floats(size_t(tokens) * kv_heads * head_dim);
    v = random.Floats(k.size());
    for (int t = 0; t < tokens; ++t) rows.push_back({blocks.data(), t});
    ThreadPool pool(2);
    const KvStore store{tokens, k.data(), v.data(), rows.data(), arena};
    EXPECT_TRUE(Check(store).ok());
    braid::Run(store, pool);
  }
  Attention Op(int first, int T, float* y) const {
    return {T, heads, kv_heads, head_dim, &q[size_t(first) * Width()], &rows[first], arena, y};
  }
  std::vector<float> Run(int first, int T, int threads = 1) const {
    std::vector<float> y(T * Width());
    const Attention op = Op(first, T, y.data());
    EXPECT_TRUE(Check(op).ok());
    ThreadPool pool(threads);
    AttentionScratch scratch;
    braid::Run(op, scratch, pool);
    return y;
  }
  size_t Width() const { return static_cast<size_t>(heads) * head_dim; }

  int heads, kv_heads, head_dim, tokens;
  std::vector<int32_t> blocks;
  std::vector<std::byte> memory;
  std::vector<float> q, k, v;
  std::vector<KvRow> rows;
  KvArena arena;
};

double Norm(const float* x, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += double{x[i]} * double{x[i]};
  return std::sqrt(sum);
}

// How far row t may be from the exact result: with u = 2^-24, N positions, and s the largest sum of |q_d k_d|, in
// powers of two, that a score has (at most the product of the norms, keys being rounded to 8 bits or to half a 127th of
// their largest),
//   - a score is off by at most (dim + 5) u s: a chain of dim products, and the scales of both;
//   - its difference to the base, those of a span's bases and those of the spans' bases add up to at most 2 s + 8 each,
//     rounded to u of that; the weight is off by ln 2 times all this, and by 2 u of Exp2;
//   - weights are rescaled at most once per piece and per span, each time with at most 8 u;
//   - a sum grows in at most kSpanTokens steps within a span;
//   - the scale of a value costs u of the product, and an int8 value may exceed 1 by half of u.
// Numerator and denominator both have the weights' errors. Values are below 1.
double Bound(const Sequence& sequence, int t) {
  const int dim = sequence.head_dim, N = t + 1;
  double q = 0, k = 0;
  for (int h = 0; h < sequence.heads; ++h)
    q = std::max(q, Norm(&sequence.q[(size_t(t) * sequence.heads + h) * dim], dim));
  for (int i = 0; i < N * sequence.kv_heads; ++i) k = std::max(k, Norm(&sequence.k[size_t(i) * dim], dim));
  const double s = q * k * (1 + std::max(0x1p-8, std::sqrt(dim) / 254)) * 1.4427 / std::sqrt(dim);
  const double weight = 0.6932 * ((dim + 5) * s + 3 * (2 * s + 8)) + 2;
  const double rescaled = 8.0 * (N / Attention::kPieceTokens + N / Attention::kSpanTokens + 2);
  return (2 * weight + rescaled + std::min(N, Attention::kSpanTokens) + 10) * 0x1p-24;
}

void ExpectNearReference(const Sequence& sequence, int first, int T, const std::vector<float>& got) {
  std::vector<float> want(got.size());
  ref::Run(sequence.Op(first, T, want.data()));
  const size_t width = sequence.Width();
  for (int t = 0; t < T; ++t) {
    const double bound = Bound(sequence, first + t);
    for (size_t i = t * width; i < (t + 1) * width; ++i) ASSERT_NEAR(got[i], want[i], bound) << first + t << ", " << i;
  }
}

TEST(Attention, AgreesWithTheReferenceOnEveryLevel) {
  for (const CpuLevel* level : SupportedCpuLevels()) {
    SCOPED_TRACE(level->name);
    const ScopedCpuLevel scope(level);
    for (const auto& [heads, kv_heads, head_dim] :
         {std::array{4, 1, 64}, {6, 2, 8}, {3, 3, 72}, {8, 2, 128}, {5, 1, 16}, {2, 1, 24}, {1, 1, 1024}, {51, 1, 8}}) {
      for (const KvType type : kTypes) {
        const Sequence sequence(heads, kv_heads, head_dim, 75, type);
        ExpectNearReference(sequence, 0, 75, sequence.Run(0, 75));
      }
    }
  }
}

TEST(Attention, AgreesWithTheReferenceAroundEveryEdge) {
  for (const KvType type : kTypes) {
    const Sequence sequence(4, 2, 64, 1100, type);
    for (int position :
         {0, 1, 14, 15, 16, 30, 31, 32, 33, 62, 63, 64, 65, 127, 128, 510, 511, 512, 513, 1023, 1024, 1025})
      ExpectNearReference(sequence, position, 1, sequence.Run(position, 1, 2));
  }
}

TEST(Attention, AgreesWithTheReferenceAt128KPositions) {
  constexpr int kLast = 128 * 1024 - 1;
  for (const KvType type : kTypes) {
    const Sequence sequence(2, 1, 16, kLast + 1, type);
    const std::vector<float> decoded = sequence.Run(kLast, 1, 2), prefilled = sequence.Run(kLast - 20, 21);
    ExpectNearReference(sequence, kLast, 1, decoded);
    EXPECT_EQ(decoded, std::vector<float>(prefilled.end() - 32, prefilled.end()));
  }
}

TEST(Attention, GivesARowTheSameBitsHoweverTheStepIsCut) {
  for (const KvType type : kTypes) {
    const Sequence sequence(8, 2, 40, 1100, type);
    const std::vector<float> whole = sequence.Run(0, sequence.tokens);
    const size_t width = sequence.Width();
    for (int threads : {1, 2, 3, 4}) {
      ThreadPool pool(threads);
      AttentionScratch scratch;
      for (int T : {1, 5, 31, 33, 512}) {
        std::vector<float> cut(whole.size());
        for (int first = 0; first < sequence.tokens; first += T)
          braid::Run(sequence.Op(first, std::min(T, sequence.tokens - first), &cut[first * width]), scratch, pool);
        ASSERT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * sizeof(float)), 0) << T << " on " << threads;
      }
    }
  }
}

TEST(Attention, GivesARowTheSameBitsBesideOtherSequences) {
  const Sequence sequence(4, 1, 64, 700);
  const std::vector<int32_t> others = sequence.blocks;  // another sequence with the same keys
  const int at[] = {699, 0, 600, 31, 698, 512};
  std::vector<KvRow> rows;
  std::vector<float> q;
  for (int i = 0; i < 6; ++i) {
    rows.push_back({i % 2 == 0 ? sequence.blocks.data() : others.data(), at[i]});
    q.insert(q.end(), &sequence.q[at[i] * sequence.Width()], &sequence.q[at[i] * sequence.Width()] + sequence.Width());
  }
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    AttentionScratch scratch;
    std::vector<float> y(q.size());
    braid::Run(Attention{6, 4, 1, 64, q.data(), rows.data(), sequence.arena, y.data()}, scratch, pool);
    for (size_t i = 0; i < 6; ++i) {
      const std::vector<float> alone = sequence.Run(at[i], 1);
      EXPECT_EQ(std::memcmp(&y[i * sequence.Width()], alone.data(), alone.size() * sizeof(float)), 0) << i;
    }
  }
}

TEST(Attention, GivesTheSameBitsOnEveryLevel) {
  for (const auto& [heads, kv_heads, head_dim] : {std::array{4, 1, 64}, {4, 2, 72}, {7, 1, 8}}) {
    for (const KvType type : kTypes) {
      const Sequence sequence(heads, kv_heads, head_dim, 600, type);
      std::vector<float> portable;
      for (const CpuLevel* level : SupportedCpuLevels()) {
        const ScopedCpuLevel scope(level);
        const std::vector<float> y = sequence.Run(0, sequence.tokens);
        if (portable.empty()) portable = y;
        EXPECT_EQ(y, portable) << level->name;
      }
    }
  }
}

TEST(Attention, DoesNotSeePositionsAfterItsOwn) {
  for (const KvType type : kTypes) {
    Sequence sequence(2, 1, 16, 75, type);
    const std::vector<float> before = sequence.Run(36, 5);
    const std::vector<float> nan(sequence.k.size(), std::numeric_limits<float>::quiet_NaN());
    ThreadPool pool(1);
    braid::Run(KvStore{75 - 38, nan.data(), nan.data(), &sequence.rows[38], sequence.arena}, pool);
    const std::vector<float> after = sequence.Run(36, 5);
    for (size_t i = 0; i < 2 * 2 * 16; ++i) EXPECT_EQ(before[i], after[i]) << i;  // of 36 and 37
    for (size_t i = 2 * 2 * 16; i < after.size(); ++i) EXPECT_TRUE(std::isnan(after[i])) << i;
  }
}

TEST(Attention, SurvivesScoresThatWouldOverflowExp) {
  for (const KvType type : kTypes) {
    Sequence sequence(1, 1, 8, 75, type);
    for (float& q : sequence.q) q *= 1e4f;
    for (float value : sequence.Run(0, 75)) ASSERT_LE(std::abs(value), 1 + 0x1p-20f);
  }
}

// Of a row's largest number, or, in bfloat16, of the number itself.
double StepOf(KvType type, const float* row, int n, int i) {
  if (type == KvType::kBFloat16) return std::abs(row[i]) * 0x1p-8;
  float largest = 0;
  for (int d = 0; d < n; ++d) largest = std::max(largest, std::abs(row[d]));
  return largest / 254 * (1 + 0x1p-20);
}

TEST(KvStore, PutsEachRowAtItsPositionRounded) {
  for (const KvType type : kTypes) {
    Sequence sequence(2, 2, 24, 75, type);
    const Sequence before(2, 2, 24, 75, type);
    ThreadPool pool(2);
    RandomNumbers random(7);
    const std::vector<float> k = random.Floats(65 * 48), v = random.Floats(65 * 48);
    braid::Run(KvStore{65, k.data(), v.data(), &sequence.rows[5], sequence.arena}, pool);
    for (int position = 0; position < 75; ++position) {
      for (int i = 0; i < 48; ++i) {
        const double key = sequence.arena.Key(sequence.rows[0], position, i / 24, i % 24);
        const double value = sequence.arena.Value(sequence.rows[0], position, i / 24, i % 24);
        if (position < 5 || position >= 70) {
          ASSERT_EQ(key, before.arena.Key(before.rows[0], position, i / 24, i % 24)) << position;
          ASSERT_EQ(value, before.arena.Value(before.rows[0], position, i / 24, i % 24)) << position;
          continue;
        }
        const int row = (position - 5) * 48 + i / 24 * 24, d = i % 24;
        ASSERT_NEAR(key, k[row + d], StepOf(type, &k[row], 24, d)) << position;
        ASSERT_NEAR(value, v[row + d], StepOf(type, &v[row], 24, d)) << position;
      }
    }
    // What no row owns: the padding of head_dim, block 0, and what is behind a block.
    size_t untouched = 0, as_before = 0;
    for (size_t i = 0; i < before.memory.size(); ++i) {
      untouched += before.memory[i] == std::byte{0xFF};
      as_before += before.memory[i] == std::byte{0xFF} && sequence.memory[i] == std::byte{0xFF};
    }
    EXPECT_GT(untouched, before.memory.size() / 4);
    EXPECT_GE(as_before, untouched - 65 * 96 / 64) << "wrote where no row belongs";  // a number may end in 0xFF
  }
}

TEST(KvStore, RoundsNumbersOfAnySizeToInt8) {
  Sequence sequence(1, 1, 8, 2, KvType::kInt8);
  constexpr float kMax = std::numeric_limits<float>::max(), kInfinity = std::numeric_limits<float>::infinity();
  ThreadPool pool(1);
  for (const float largest : {0.0f, 1e-45f, 1e-38f, 1.0f, 1e38f, kMax, kInfinity}) {
    const float row[8] = {largest, -largest, largest / 2, 0, largest / 254, 1e-45f, -largest / 3, largest};
    braid::Run(KvStore{1, row, row, &sequence.rows[1], sequence.arena}, pool);
    for (int d = 0; d < 8; ++d) {
      const double key = sequence.arena.Key(sequence.rows[0], 1, 0, d);
      if (std::isinf(largest)) {
        EXPECT_FALSE(std::isfinite(key)) << d;
      } else {
        EXPECT_NEAR(key, row[d], largest / 250 + 1e-36) << largest << ", " << d;
      }
    }
  }
}

TEST(Attention, RefusesHeadsThatDoNotFit) {
  Sequence sequence(4, 2, 8, 32);
  std::vector<float> y(sequence.Width());
  Attention op = sequence.Op(0, 1, y.data());
  op.heads = 3;
  EXPECT_FALSE(Check(op).ok());
  op = sequence.Op(0, 1, y.data());
  op.head_dim = op.arena.head_dim = 12;
  EXPECT_FALSE(Check(op).ok());
  op = sequence.Op(0, 1, y.data());
  op.arena.kv_heads = 1;
  EXPECT_FALSE(Check(op).ok());
  op = sequence.Op(0, 1, y.data());
  op.arena.block_bytes -= 128;
  EXPECT_FALSE(Check(op).ok());
}

}  // namespace
}  // namespace braid
