#include "kernels/cuda/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"

namespace braid::gpu {
namespace {

using simt::GlobalArray;

struct Shape {
  int heads, kv_heads, head_dim;
};

// Two sequences of `context` positions with the same keys and values, in an arena whose other blocks were never
// written, and queries for all positions.
template <typename T>
struct Sequences {
  Sequences(Shape shape, int context, uint32_t seed)
      : shape(shape), context(context), width(shape.heads * shape.head_dim), random(seed) {
    const int table = (context + 31) / 32, kv_dim = shape.kv_heads * shape.head_dim;
    stride = KvArena::BlockNumbers(shape.kv_heads, shape.head_dim) + 8;
    memory = std::make_unique<GlobalArray<__nv_bfloat16>>((2 * table + 1) * stride);
    std::vector<int32_t> numbers;
    for (int i = 0; i < 2 * table; ++i) numbers.push_back(i + 1);
    for (int i = 2 * table - 1; i > 0; --i) std::swap(numbers[i], numbers[random.Below(i + 1)]);
    blocks = std::make_unique<GlobalArray<int32_t>>(numbers);

    q = Rounded<T>(random.Floats(size_t(context) * width, 3));
    k = AsFloats(Rounded<__nv_bfloat16>(random.Floats(size_t(context) * kv_dim)));
    v = AsFloats(Rounded<__nv_bfloat16>(random.Floats(size_t(context) * kv_dim)));
    for (int p = 0; p < context; ++p) {
      for (int i = 0; i < kv_dim; ++i) {
        for (int sequence = 0; sequence < 2; ++sequence) {
          __nv_bfloat16* key = memory->data() + numbers[sequence * table + p / 32] * stride +
                               (2 * (i / shape.head_dim) * 32 + p % 32) * shape.head_dim + i % shape.head_dim;
          Set(k[size_t(p) * kv_dim + i], key);
          Set(v[size_t(p) * kv_dim + i], key + 32 * shape.head_dim);
        }
      }
    }
  }

  struct Row {
    int sequence, position;
  };
  // `tiles` of rows that are in order; empty: each row is one. spans 0: not split.
  std::vector<T> Run(const std::vector<Row>& rows, std::vector<AttentionTile> tiles, int spans) {
    const int rows_count = static_cast<int>(rows.size());
    std::vector<int32_t> position_values, sequence_values;
    std::vector<T> queries;
    for (const Row& row : rows) {
      position_values.push_back(row.position), sequence_values.push_back(row.sequence);
      const T* from = &q[size_t(std::max(row.position, 0)) * width];
      queries.insert(queries.end(), from, from + width);
    }
    GlobalArray<int32_t> positions(position_values), row_sequences(sequence_values);
    GlobalArray<AttentionTile> tile_array(tiles);
    GlobalArray<T> query_array(queries), y(queries.size());
    int tile_rows = 0;
    for (const AttentionTile& tile : tiles) tile_rows = std::max(tile_rows, tile.rows);
    const int partial_rows = tiles.empty() ? rows_count : static_cast<int>(tiles.size()) * tile_rows;
    GlobalArray<float> partials(PagedAttention::PartialNumbers(partial_rows, shape.heads, shape.head_dim, spans));
    const PagedAttention op{rows_count,
                            shape.heads,
                            shape.kv_heads,
                            shape.head_dim,
                            kTypeOf<T>,
                            query_array.data(),
                            {positions.data(), row_sequences.data(), blocks->data(), (context + 31) / 32},
                            {memory->data(), stride, shape.kv_heads, shape.head_dim},
                            tiles.empty() ? nullptr : tile_array.data(),
                            static_cast<int>(tiles.size()),
                            tile_rows,
                            spans == 0 ? nullptr : partials.data(),
                            spans,
                            y.data()};
    EXPECT_TRUE(Check(op).ok()) << Check(op);
    EXPECT_EQ(gpu::Run(op, nullptr), cudaSuccess);
    return y.values();
  }
  std::vector<T> RunOne(int position) { return Run({{0, position}}, {}, 0); }

  // The result in double, by the CPU's reference over the CPU's arena.
  std::vector<float> Reference(int position) const {
    const int table = (context + 31) / 32;
    const int64_t block_bytes = braid::KvArena::BlockBytes(KvType::kBFloat16, shape.kv_heads, shape.head_dim);
    std::vector<std::byte> cpu_memory(table * block_bytes);
    std::vector<int32_t> cpu_blocks;
    for (int i = 0; i < table; ++i) cpu_blocks.push_back(i);
    std::vector<KvRow> rows;
    for (int p = 0; p <= position; ++p) rows.push_back({cpu_blocks.data(), p});
    const braid::KvArena arena{cpu_memory.data(), block_bytes, shape.kv_heads, shape.head_dim};
    ThreadPool pool(1);
    braid::Run(KvStore{position + 1, k.data(), v.data(), rows.data(), arena}, pool);
    const T* query = &q[size_t(position) * width];
    const std::vector<float> query_floats = AsFloats(std::vector<T>(query, query + width));
    std::vector<float> y(width);
    ref::Run(Attention{1, shape.heads, shape.kv_heads, shape.head_dim, query_floats.data(), &rows[position], arena,
                       y.data()});
    return y;
  }

  // As in kernels/attention_test.cc, and for the same reasons; the weights' 2^x is within 2 ulp on a GPU.
  double Bound(int position) const {
    const int dim = shape.head_dim, N = position + 1, kv_dim = shape.kv_heads * dim;
    const auto norm = [&](const auto* x) {
      double sum = 0;
      for (int i = 0; i < dim; ++i) sum += double{ToFloat(x[i])} * double{ToFloat(x[i])};
      return std::sqrt(sum);
    };
    double q_norm = 0, k_norm = 0;
    for (int h = 0; h < shape.heads; ++h) q_norm = std::max(q_norm, norm(&q[size_t(position) * width + h * dim]));
    for (int i = 0; i < N * shape.kv_heads; ++i)
      k_norm = std::max(k_norm, norm(&k[size_t(i / shape.kv_heads) * kv_dim + i % shape.kv_heads * dim]));
    const double s = q_norm * k_norm * 1.4427 / std::sqrt(dim);
    const double weight = 0.6932 * ((dim + 4) * s + 3 * (2 * s + 8)) + 2;
    const double rescaled = 8.0 * (N / PagedAttention::kPieceTokens + N / PagedAttention::kSpanTokens + 2);
    return (2 * weight + rescaled + std::min(N, PagedAttention::kSpanTokens) + 8) * 0x1p-24;
  }
  void ExpectNearReference(int position, const T* got) const {
    const std::vector<float> want = Reference(position);
    // In bfloat16 both the weights in the numerator and their sum are off by half a step of it; values are below 1.
    const double bound = Bound(position) + kRounding<T>;
    for (int i = 0; i < width; ++i)
      ASSERT_NEAR(ToFloat(got[i]), want[i], bound + kRounding<T> * std::abs(want[i])) << position << ", " << i;
  }

  Shape shape;
  int context, width;
  RandomNumbers random;
  int64_t stride = 0;
  std::unique_ptr<GlobalArray<__nv_bfloat16>> memory;
  std::unique_ptr<GlobalArray<int32_t>> blocks;
  std::vector<T> q;
  std::vector<float> k, v;
};

template <typename T>
class PagedAttentionKernel : public testing::Test {};
using Activations = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(PagedAttentionKernel, Activations);

TYPED_TEST(PagedAttentionKernel, AgreesWithTheReferenceInEveryShape) {
  for (const Shape shape : {Shape{4, 1, 64}, {3, 3, 32}, {8, 2, 32}, {5, 1, 128}, {16, 1, 32}, {9, 1, 64}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      Sequences<TypeParam> sequences(shape, 100, static_cast<uint32_t>(seed));
      for (int position : {0, 31, 32, 63, 64, 99}) {
        const std::vector<TypeParam> y = sequences.RunOne(position);
        sequences.ExpectNearReference(position, y.data());
      }
    }
  }
}

TYPED_TEST(PagedAttentionKernel, AgreesWithTheReferenceAroundEverySpan) {
  Sequences<TypeParam> sequences({4, 2, 32}, 1100, 7);
  using Row = typename Sequences<TypeParam>::Row;
  std::vector<Row> rows;
  for (int position : {0, 510, 511, 512, 513, 575, 576, 1022, 1023, 1024, 1025, 1099}) rows.push_back({0, position});
  const std::vector<TypeParam> y = sequences.Run(rows, {}, 3);
  for (size_t i = 0; i < rows.size(); ++i) sequences.ExpectNearReference(rows[i].position, &y[i * sequences.width]);
}

// Prefill in tiles, decode with and without a split over spans, beside another sequence or padding.
TYPED_TEST(PagedAttentionKernel, GivesARowTheSameBitsHoweverTheStepIsCut) {
  using Row = typename Sequences<TypeParam>::Row;
  for (const Shape shape : {Shape{4, 1, 64}, {6, 1, 32}, {2, 2, 128}}) {
    for (const uint64_t seed : simt::Seeds()) {
      simt::SetSeed(seed);
      Sequences<TypeParam> sequences(shape, 600, 9);
      const int first = 505, count = 9, width = sequences.width;
      const int tile_rows = PagedAttention::RowsMax(kTypeOf<TypeParam>, shape.heads / shape.kv_heads);
      std::vector<Row> rows;
      for (int i = 0; i < count; ++i) rows.push_back({0, first + i});
      const std::vector<TypeParam> decoded = sequences.Run(rows, {}, 0);
      EXPECT_TRUE(SameBits(sequences.Run(rows, {}, 2), decoded)) << "split over spans";
      EXPECT_TRUE(SameBits(sequences.Run(rows, {}, 5), decoded)) << "split, made for a longer context";
      const int few = PagedAttention::FewRows(kTypeOf<TypeParam>, shape.heads / shape.kv_heads);
      for (int step : {1, few, std::min(3, tile_rows), tile_rows}) {
        std::vector<AttentionTile> tiles;
        for (int at = 0; at < count; at += step) tiles.push_back({at, std::min(step, count - at)});
        EXPECT_TRUE(SameBits(sequences.Run(rows, tiles, 0), decoded)) << "prefill by " << step;
        EXPECT_TRUE(SameBits(sequences.Run(rows, tiles, 2), decoded)) << "split prefill by " << step;
      }
      const std::vector<TypeParam> mixed = sequences.Run({{1, 20}, {0, 512}, {1, 505}, {0, -1}}, {}, 2);
      EXPECT_EQ(std::memcmp(&mixed[width], &decoded[7 * width], width * sizeof(TypeParam)), 0);
      EXPECT_EQ(std::memcmp(&mixed[2 * width], &decoded[0], width * sizeof(TypeParam)), 0) << "of the other sequence";
      // Rows of which some are somebody else's work.
      const std::vector<TypeParam> some = sequences.Run(rows, {{7, 1}, {2, 1}}, 2);
      for (const int row : {2, 7})
        EXPECT_EQ(std::memcmp(&some[row * width], &decoded[row * width], width * sizeof(TypeParam)), 0) << row;
      const std::vector<TypeParam> untouched = GlobalArray<TypeParam>(width).values();
      EXPECT_EQ(std::memcmp(&some[3 * width], untouched.data(), width * sizeof(TypeParam)), 0);
      EXPECT_EQ(std::memcmp(&mixed[3 * width], untouched.data(), width * sizeof(TypeParam)), 0) << "padding";
    }
  }
}

TYPED_TEST(PagedAttentionKernel, DoesNotSeePositionsAfterItsOwn) {
  using Row = typename Sequences<TypeParam>::Row;
  Sequences<TypeParam> sequences({4, 1, 64}, 75, 3);
  const std::vector<Row> rows = {{0, 36}, {0, 37}, {0, 38}, {0, 39}};
  // In one tile where that is promised.
  const std::vector<AttentionTile> tiles(kTypeOf<TypeParam> == DType::kF32 ? 1 : 0, {0, 4});
  const std::vector<TypeParam> before = sequences.Run(rows, tiles, 0);
  const int block = sequences.blocks->data()[1];
  for (int p = 38 % 32; p < 32; ++p) {
    for (int d = 0; d < 64; ++d) {
      Set(NAN, sequences.memory->data() + block * sequences.stride + p * 64 + d);
      Set(NAN, sequences.memory->data() + block * sequences.stride + (32 + p) * 64 + d);
    }
  }
  const std::vector<TypeParam> after = sequences.Run(rows, tiles, 0);
  EXPECT_EQ(std::memcmp(before.data(), after.data(), 2 * sequences.width * sizeof(TypeParam)), 0);
  for (int i = 2 * sequences.width; i < 4 * sequences.width; ++i) EXPECT_TRUE(std::isnan(ToFloat(after[i])));
}

TYPED_TEST(PagedAttentionKernel, SurvivesScoresThatWouldOverflow) {
  Sequences<TypeParam> sequences({1, 1, 32}, 75, 3);
  for (TypeParam& q : sequences.q) Set(ToFloat(q) * 1e4f, &q);
  for (const TypeParam value : sequences.RunOne(74)) ASSERT_TRUE(std::abs(ToFloat(value)) <= 1);
}

TEST(PagedAttention, CheckNamesWhatIsWrong) {
  alignas(16) float numbers[64] = {};
  __nv_bfloat16* blocks = reinterpret_cast<__nv_bfloat16*>(numbers);
  int32_t table = 0;
  PagedAttention good{
      1, 4, 2, 64, DType::kF32, numbers, {&table, &table, &table, 1}, {blocks, KvArena::BlockNumbers(2, 64), 2, 64}};
  good.y = numbers + 4;
  EXPECT_TRUE(Check(good).ok()) << Check(good);
  PagedAttention op = good;
  op.heads = 3;
  EXPECT_EQ(Check(op).message(), "heads must be a multiple of kv_heads");
  op = good, op.heads = 34;
  EXPECT_EQ(Check(op).message(), "a key head must have at most 16 query heads");
  op = good, op.head_dim = op.arena.head_dim = 48;
  EXPECT_EQ(Check(op).message(), "head_dim must be 32, 64 or 128");
  op = good, op.arena.block_stride -= 8;
  EXPECT_EQ(Check(op).message(), "block_stride must fit a block and be a multiple of 8");
  op = good, op.type = DType::kQ4_0;
  EXPECT_EQ(Check(op).message(), "type must be F32 or BF16");
  op = good, op.spans = 1, op.partials = numbers + 1;
  EXPECT_EQ(Check(op).message(), "partials must be at a multiple of 16 bytes");
}

}  // namespace
}  // namespace braid::gpu
