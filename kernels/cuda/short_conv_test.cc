#include "kernels/cuda/short_conv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"
#include "kernels/short_conv.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

constexpr int kRing = 16, kSlots = 4;

// `tokens` positions of as many sequences as anyone asks for: all say the same, so that rows can be compared.
template <typename T>
struct Fixture {
  Fixture(int D, int taps, int tokens, uint32_t seed)
      : D(D), taps(taps), tokens(tokens), random(seed), kernel(random.Floats(size_t(taps) * D)) {
    bcx = Rounded<T>(random.Floats(size_t{3} * tokens * D));
  }

  struct Save {
    int piece, position;
  };
  // Runs the pieces as one step, padded by `padding` rows, over `columns`. rows_per_thread 0: as Choose says.
  std::vector<T> Run(const std::vector<ConvPiece>& pieces, GlobalArray<float>& columns, int rows_per_thread = 0,
                     const std::vector<Save>& saves = {}, std::vector<float>* saved = nullptr, int padding = 0) {
    std::vector<T> input;
    std::vector<int32_t> piece_values;
    std::vector<ConvSave> save_values;
    int tokens_max = 0;
    for (const ConvPiece& piece : pieces) {
      const T* from = &bcx[size_t{3} * piece.position * D];
      input.insert(input.end(), from, from + size_t{3} * piece.tokens * D);
      piece_values.insert(piece_values.end(), piece.tokens, static_cast<int32_t>(&piece - pieces.data()));
      tokens_max = std::max(tokens_max, piece.tokens);
    }
    const size_t rows = piece_values.size();
    piece_values.insert(piece_values.end(), padding, -1);
    input.resize(piece_values.size() * 3 * D);
    for (const Save& save : saves)
      save_values.push_back({save.piece, save.position, static_cast<int32_t>(save_values.size())});
    GlobalArray<T> bcx_array(input), y(piece_values.size() * D);
    GlobalArray<float> kernel_array(kernel), saved_array(saves.size() * (taps - 1) * D);
    GlobalArray<ConvPiece> piece_array(pieces);
    GlobalArray<int32_t> piece_of(piece_values);
    GlobalArray<ConvSave> save_array(save_values);
    const ShortConv op{static_cast<int>(piece_values.size()),
                       D,
                       taps,
                       kRing,
                       kTypeOf<T>,
                       bcx_array.data(),
                       kernel_array.data(),
                       piece_array.data(),
                       static_cast<int>(pieces.size()),
                       tokens_max,
                       piece_of.data(),
                       columns.data(),
                       save_array.data(),
                       static_cast<int>(saves.size()),
                       saved_array.data(),
                       y.data()};
    EXPECT_TRUE(Check(op).ok()) << Check(op);
    ShortConvConfig config = Choose(op);
    if (rows_per_thread > 0) config.rows_per_thread = rows_per_thread;
    EXPECT_EQ(gpu::Run(op, config, nullptr), cudaSuccess);
    if (saved != nullptr) *saved = saved_array.values();
    std::vector<T> values = y.values();
    values.resize(rows * D);
    return values;
  }
  std::vector<float> State(GlobalArray<float>& columns, int slot) const {
    const float* from = columns.data() + size_t(slot) * kRing * D;
    return std::vector<float>(from, from + size_t{kRing} * D);
  }

  int D, taps, tokens;
  RandomNumbers random;
  std::vector<float> kernel;
  std::vector<T> bcx;
};

template <typename T>
class ShortConvKernel : public testing::Test {};
using Activations = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(ShortConvKernel, Activations);

TYPED_TEST(ShortConvKernel, AgreesWithTheReference) {
  for (const auto& [D, taps] : {std::array{8, 3}, {40, 4}, {2056, 3}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      const int tokens = 21;
      Fixture<TypeParam> fixture(D, taps, tokens, static_cast<uint32_t>(seed));
      GlobalArray<float> columns(size_t{kSlots} * kRing * D);
      const std::vector<TypeParam> got =
          fixture.Run({{0, tokens, 0, 2}}, columns, seed % 2 == 0 ? 1 : 8, {}, nullptr, 3);
      std::vector<float> want(size_t(tokens) * D), state(size_t{kRing} * D);
      const std::vector<float> bcx = AsFloats(fixture.bcx);
      const braid::ConvPiece piece{0, tokens, 0, state.data()};
      ref::Run(braid::ShortConv{tokens, D, taps, kRing, bcx.data(), fixture.kernel.data(), {&piece, 1}, want.data()});
      for (size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(ToFloat(got[i]), want[i], (taps + 2) * taps * 0x1p-24 + kRounding<TypeParam> * std::abs(want[i]));
      EXPECT_TRUE(SameBits(fixture.State(columns, 2), state));
    }
  }
}

// Prefill by chunks, over and under what the ring holds, is decode.
TYPED_TEST(ShortConvKernel, GivesTheSameBitsHoweverTheSequenceIsCut) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    const int D = 24, tokens = 40;
    Fixture<TypeParam> fixture(D, 3, tokens, 5);
    GlobalArray<float> whole_columns(size_t{kSlots} * kRing * D);
    const std::vector<TypeParam> whole = fixture.Run({{0, tokens, 0, 1}}, whole_columns, 8);
    for (int cut : {1, 2, 3, 13, 14, 15, 17}) {
      GlobalArray<float> columns(size_t{kSlots} * kRing * D);
      std::vector<TypeParam> y;
      for (int at = 0; at < tokens; at += cut) {
        const std::vector<TypeParam> part =
            fixture.Run({{0, std::min(cut, tokens - at), at, 3}}, columns, cut % 2 == 0 ? 8 : 1);
        y.insert(y.end(), part.begin(), part.end());
      }
      EXPECT_TRUE(SameBits(y, whole)) << cut;
      EXPECT_TRUE(SameBits(fixture.State(columns, 3), fixture.State(whole_columns, 1))) << cut;
    }
  }
}

TYPED_TEST(ShortConvKernel, KeepsTheSequencesOfAStepApart) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    const int D = 16;
    Fixture<TypeParam> fixture(D, 3, 30, 6);
    GlobalArray<float> columns(size_t{kSlots} * kRing * D), whole_columns(size_t{kSlots} * kRing * D);
    const std::vector<TypeParam> whole = fixture.Run({{0, 30, 0, 0}}, whole_columns);
    fixture.Run({{0, 7, 0, 0}, {7, 1, 0, 2}, {8, 20, 0, 1}}, columns);
    const std::vector<TypeParam> y = fixture.Run({{0, 1, 7, 0}, {1, 10, 20, 1}, {11, 2, 1, 2}}, columns, 8);
    const auto expect_rows = [&](int row, int position, int count) {
      EXPECT_EQ(std::memcmp(&y[row * D], &whole[position * D], count * D * sizeof(TypeParam)), 0) << position;
    };
    expect_rows(0, 7, 1), expect_rows(1, 20, 10), expect_rows(11, 1, 2);
  }
}

TYPED_TEST(ShortConvKernel, SavesTheColumnsBeforeAnyPosition) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    const int D = 8, taps = 4, tokens = 40;
    Fixture<TypeParam> fixture(D, taps, tokens, 7);
    const std::vector<float> bcx = AsFloats(fixture.bcx);
    for (const auto& [first, count] : {std::array{0, 40}, {0, 3}, {2, 38}, {17, 3}}) {
      GlobalArray<float> columns(size_t{kSlots} * kRing * D);
      if (first > 0) fixture.Run({{0, first, 0, 0}}, columns);
      std::vector<typename Fixture<TypeParam>::Save> saves;
      for (int at = first + 1; at <= first + count; ++at) saves.push_back({0, at});
      std::vector<float> saved;
      fixture.Run({{0, count, first, 0}}, columns, 1, saves, &saved);
      for (size_t i = 0; i < saved.size(); ++i) {
        const int column = static_cast<int>(i / D % (taps - 1)), d = static_cast<int>(i % D);
        const int position = saves[i / (D * (taps - 1))].position - (taps - 1) + column;
        const float* row = bcx.data() + size_t{3} * std::max(position, 0) * D;
        ASSERT_EQ(saved[i], position < 0 ? 0 : row[d] * row[2 * D + d]) << first << " " << position;
      }
    }
  }
}

TEST(ShortConv, StoresColumnsAtOnceOnlyWhereNoneIsReadThatIsWritten) {
  ShortConv op;
  op.T = 100, op.D = 2048, op.taps = 3, op.ring = kRing, op.tokens_max = kRing - 2;
  EXPECT_TRUE(Choose(op).store_at_once);
  op.tokens_max = kRing - 1;
  EXPECT_FALSE(Choose(op).store_at_once);
}

TEST(ShortConv, CheckNamesWhatIsWrong) {
  alignas(16) float numbers[96] = {};
  const ConvPiece piece;
  const int32_t piece_of = 0;
  ShortConv good{1, 8, 3, 4, DType::kF32, numbers, numbers, &piece, 1, 1, &piece_of, numbers};
  good.y = numbers;
  EXPECT_TRUE(Check(good).ok()) << Check(good);
  ShortConv op = good;
  op.D = 12;
  EXPECT_EQ(Check(op).message(), "D must be a multiple of 8");
  op = good, op.ring = 2;
  EXPECT_EQ(Check(op).message(), "ring must hold the taps");
  op = good, op.tokens_max = 2;
  EXPECT_EQ(Check(op).message(), "tokens_max must be in [1, T]");
  op = good, op.columns = nullptr;
  EXPECT_EQ(Check(op).message(), "bcx, kernel, columns and y must be set, at multiples of 16 bytes");
}

}  // namespace
}  // namespace braid::gpu
