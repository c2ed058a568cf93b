#include "kernels/short_conv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr int kRing = 16;

struct Fixture {
  Fixture(int D, int taps, int tokens) : D(D), taps(taps), tokens(tokens) {
    RandomNumbers random(13);
    bcx = random.Floats(size_t{3} * tokens * D);
    kernel = random.Floats(size_t{1} * taps * D);
  }
  // Rows [first, first + count) as one piece, over the columns in `state`.
  void RunPiece(int first, int count, std::vector<float>& state, float* y, ThreadPool& pool) {
    const ConvPiece piece{0, count, first, state.data()};
    const ShortConv op{count, D, taps, kRing, &bcx[size_t{3} * first * D], kernel.data(), {&piece, 1}, y};
    ASSERT_TRUE(Check(op).ok());
    braid::Run(op, pool);
  }
  std::vector<float> State() const { return std::vector<float>(size_t{kRing} * D); }

  int D, taps, tokens;
  std::vector<float> bcx, kernel;
};

TEST(ShortConv, AgreesWithTheReference) {
  ThreadPool pool(2);
  for (int taps : {1, 3, 4}) {
    for (int D : {1, 8, 33}) {
      Fixture fixture(D, taps, 40);
      std::vector<float> got(40 * D), want(40 * D), state = fixture.State(), ref_state = fixture.State();
      fixture.RunPiece(0, 40, state, got.data(), pool);
      const ConvPiece piece{0, 40, 0, ref_state.data()};
      ref::Run(ShortConv{40, D, taps, kRing, fixture.bcx.data(), fixture.kernel.data(), {&piece, 1}, want.data()});
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], (taps + 2) * taps * 0x1p-24f);
      EXPECT_EQ(state, ref_state);
    }
  }
}

TEST(ShortConv, GivesTheSameBitsHoweverTheSequenceIsCut) {
  Fixture fixture(24, 3, 50);
  ThreadPool pool(3);
  std::vector<float> whole(50 * 24), whole_state = fixture.State();
  fixture.RunPiece(0, 50, whole_state, whole.data(), pool);
  for (int cut = 1; cut < 20; ++cut) {
    std::vector<float> y(50 * 24), state = fixture.State();
    for (int at = 0; at < 50; at += cut) fixture.RunPiece(at, std::min(cut, 50 - at), state, &y[at * 24], pool);
    ASSERT_EQ(y, whole) << cut;
    ASSERT_EQ(state, whole_state) << cut;
  }
}

TEST(ShortConv, GoesOnFromAnEarlierPosition) {
  Fixture fixture(8, 3, 40);
  ThreadPool pool(1);
  std::vector<float> whole(40 * 8), again(40 * 8), state = fixture.State();
  fixture.RunPiece(0, 40, state, whole.data(), pool);
  const int from = 40 - (kRing - 2);
  fixture.RunPiece(from, 40 - from, state, again.data(), pool);
  EXPECT_EQ(std::memcmp(again.data(), &whole[from * 8], (40 - from) * 8 * sizeof(float)), 0);
}

TEST(ShortConv, KeepsTheSequencesOfAStepApart) {
  Fixture fixture(8, 3, 30);
  ThreadPool pool(2);
  std::vector<float> a = fixture.State(), b = fixture.State(), alone = fixture.State(), together(30 * 8), want(20 * 8);
  const ConvPiece pieces[] = {{0, 10, 0, a.data()}, {10, 20, 0, b.data()}};
  const ShortConv op{30, 8, 3, kRing, fixture.bcx.data(), fixture.kernel.data(), pieces, together.data()};
  ASSERT_TRUE(Check(op).ok());
  braid::Run(op, pool);
  const ConvPiece piece{0, 20, 0, alone.data()};
  braid::Run(ShortConv{20, 8, 3, kRing, &fixture.bcx[10 * 3 * 8], fixture.kernel.data(), {&piece, 1}, want.data()},
             pool);
  EXPECT_EQ(std::memcmp(&together[10 * 8], want.data(), want.size() * sizeof(float)), 0);
  EXPECT_EQ(b, alone);
}

TEST(ShortConv, SavesTheStateAtAnyPositionOfAPiece) {
  ThreadPool pool(1);
  for (int taps : {1, 3, 4}) {
    const int D = 8, tokens = 40;
    Fixture fixture(D, taps, tokens);
    std::vector<float> whole(tokens * D), whole_state = fixture.State();
    fixture.RunPiece(0, tokens, whole_state, whole.data(), pool);
    for (int first : {0, 1, 2, 17}) {  // of the piece with the save
      for (int at = first + 1; at <= tokens; ++at) {
        std::vector<float> y(tokens * D), state = fixture.State(), ref_state, saved((taps - 1) * D, 7), want = saved;
        if (first > 0) fixture.RunPiece(0, first, state, y.data(), pool);
        ref_state = state;
        float none = 0;  // a vector without elements has no address
        const ConvSave save{at, taps == 1 ? &none : saved.data()}, ref_save{at, taps == 1 ? &none : want.data()};
        const ConvPiece piece{0, tokens - first, first, state.data(), {&save, 1}};
        const ConvPiece ref_piece{0, tokens - first, first, ref_state.data(), {&ref_save, 1}};
        ShortConv op{tokens - first,        D,           taps,    kRing, &fixture.bcx[3 * first * D],
                     fixture.kernel.data(), {&piece, 1}, y.data()};
        ASSERT_TRUE(Check(op).ok());
        braid::Run(op, pool);
        op.pieces = {&ref_piece, 1};
        ref::Run(op);
        ASSERT_EQ(saved, want) << first << " " << at;
        if (at == tokens) continue;
        // Going on from the copy gives what the uncut sequence gave.
        std::vector<float> resumed = fixture.State(), again((tokens - at) * D);
        for (int p = std::max(0, at - (taps - 1)); p < at; ++p)
          std::copy_n(&saved[(p - at + taps - 1) * D], D, &resumed[p % kRing * D]);
        fixture.RunPiece(at, tokens - at, resumed, again.data(), pool);
        ASSERT_EQ(std::memcmp(again.data(), &whole[at * D], again.size() * sizeof(float)), 0) << first << " " << at;
      }
    }
  }
}

TEST(ShortConv, RefusesSavesOutsideOfTheirPiece) {
  Fixture fixture(8, 3, 30);
  std::vector<float> state = fixture.State(), y(30 * 8), saved(2 * 8);
  for (int at : {0, 5, 36, 100}) {
    const ConvSave save{at, saved.data()};
    const ConvPiece piece{0, 30, 5, state.data(), {&save, 1}};
    EXPECT_FALSE(
        Check(ShortConv{30, 8, 3, kRing, fixture.bcx.data(), fixture.kernel.data(), {&piece, 1}, y.data()}).ok())
        << at;
  }
}

TEST(ShortConv, RefusesPiecesWithGaps) {
  Fixture fixture(8, 3, 30);
  std::vector<float> state = fixture.State(), y(30 * 8);
  const ConvPiece pieces[] = {{0, 10, 0, state.data()}, {11, 19, 0, state.data()}};
  ShortConv op{30, 8, 3, kRing, fixture.bcx.data(), fixture.kernel.data(), pieces, y.data()};
  EXPECT_FALSE(Check(op).ok());
  op.pieces = {pieces, 1};
  EXPECT_FALSE(Check(op).ok());
}

}  // namespace
}  // namespace braid
