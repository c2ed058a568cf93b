// y = x W^T for one level. Included once per level, after the level's vectors, with BRAID_LEVEL set to its namespace
// and BRAID_UNROLL to what unrolls a loop.
//
// Few rows: the weights are widened in registers and used at once; the memory they come from is the limit. Many rows: a
// tile of weights is widened into a buffer in the first cache level once per kBlockRows rows, pairs of outputs eight
// columns by eight columns, and small register blocks of rows by pairs run over it. Both add up the same lanes in the
// same order, see linear.h.

#include "kernels/cpu/weights-inl.h"

namespace braid::BRAID_LEVEL {

// The tile: 12 outputs x 512 columns are 24 KB, and with four rows of x it fits 32 KB.
constexpr int kTileOutputs = 12;
constexpr int kTileColumns = 512;
constexpr int kBlockRows = 64;

// kR rows by kO outputs, whole rows of K.
template <DType kType, int kR, int kO>
void DotsInRegisters(const LinearTask& task, int row, int output) {
  using W = Stored<kType>;
  const int K = task.op.w.columns, N = task.op.w.rows;
  const size_t row_bytes = task.op.w.row_bytes();
  const std::byte* w = task.op.w.row(output);
  const float* x = task.x + int64_t{row} * task.ldx;
  V8 acc[kR][kO];
  BRAID_UNROLL for (int r = 0; r < kR; ++r) BRAID_UNROLL for (int o = 0; o < kO; ++o) acc[r][o] = Zero();
  int k = 0;
  for (const std::byte* block = w; k + W::kBlock <= K; block += RowBytes(kType, W::kBlock)) {
    typename W::Scales scales[kO];
    BRAID_UNROLL for (int o = 0; o < kO; ++o) W::Prepare(block + o * row_bytes, &scales[o]);
    BRAID_UNROLL for (int part = 0; part < W::kBlock / W::kPart; ++part, k += W::kPart) {
      BRAID_UNROLL for (int o = 0; o < kO; ++o) {
        V8 v[W::kPart / 8];
        W::Load(block + o * row_bytes, scales[o], part, v);
        // The next rows: each is too short for the hardware to see where this is going.
        __builtin_prefetch(block + (kO + o) * row_bytes + part * RowBytes(kType, W::kBlock) / (W::kBlock / W::kPart));
        BRAID_UNROLL for (int j = 0; j < W::kPart / 8; ++j) {
          BRAID_UNROLL for (int r = 0; r < kR; ++r) {
            acc[r][o] = Fma(v[j], LoadF32(x + int64_t{r} * task.ldx + k + 8 * j), acc[r][o]);
          }
        }
      }
    }
  }
  if constexpr (W::kBlock == 8) {
    if (k < K) {
      for (int o = 0; o < kO; ++o) {
        const V8 v = LoadTail<kType>(w + o * row_bytes, K);
        for (int r = 0; r < kR; ++r) acc[r][o] = Fma(v, LoadF32(x + int64_t{r} * task.ldx + k), acc[r][o]);
      }
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int o = 0; o < kO; ++o) task.op.y[int64_t{row + r} * N + output + o] = Sum(acc[r][o]);
}

// Four outputs at a time for one or two rows, two for more: what the sixteen registers hold.
template <DType kType, int kR>
void FewRows(const LinearTask& task, int row, int begin, int end) {
  constexpr int kO = kR <= 2 ? 4 : 2;
  int output = begin;
  for (; output + kO <= end; output += kO) DotsInRegisters<kType, kR, kO>(task, row, output);
  for (; output < end; ++output) DotsInRegisters<kType, kR, 1>(task, row, output);
}

// lanes (kR, 2 kP outputs) += x (kR, columns) times kP pairs of the tile, both with zeros up to a multiple of eight
// columns.
template <int kR, int kP>
void DotsOnTile(const float* x, int ldx, const float* tile, int columns, float* lanes) {
  V8x2 acc[kR][kP];
  BRAID_UNROLL for (int r = 0; r < kR; ++r) BRAID_UNROLL for (int p = 0; p < kP; ++p) acc[r][p] =
      LoadPair(lanes + 8 * (r * kTileOutputs + 2 * p));
  for (int k = 0; k < columns; k += 8) {
    V8x2 w[kP];
    BRAID_UNROLL for (int p = 0; p < kP; ++p) w[p] = LoadPair(tile + 2 * (p * kTileColumns + k));
    BRAID_UNROLL for (int r = 0; r < kR; ++r) {
      const V8x2 xr = LoadTwice(x + int64_t{r} * ldx + k);
      BRAID_UNROLL for (int p = 0; p < kP; ++p) acc[r][p] = Fma(w[p], xr, acc[r][p]);
    }
  }
  BRAID_UNROLL for (int r = 0; r < kR; ++r) BRAID_UNROLL for (int p = 0; p < kP; ++p)
      StorePair(lanes + 8 * (r * kTileOutputs + 2 * p), acc[r][p]);
}

// The first `rows` rows of x, at most kR.
template <int kR>
void RowsOnTile(const float* x, int rows, int ldx, const float* tile, int pairs, int columns, float* lanes) {
  if constexpr (kR > 1)
    if (rows < kR) return RowsOnTile<kR - 1>(x, rows, ldx, tile, pairs, columns, lanes);
  int p = 0;
  for (; p + kTilePairs <= pairs; p += kTilePairs)
    DotsOnTile<kR, kTilePairs>(x, ldx, tile + 2 * p * kTileColumns, columns, lanes + 16 * p);
  for (; p < pairs; ++p) DotsOnTile<kR, 1>(x, ldx, tile + 2 * p * kTileColumns, columns, lanes + 16 * p);
}

// Columns [k, k + columns) of `outputs` rows of W as floats, zeros behind.
template <DType kType>
void WidenTile(const Matrix& w, int output, int outputs, int k, int columns, float* tile) {
  using W = Stored<kType>;
  for (int o = 0; o < outputs; ++o) {
    const std::byte* block = w.row(output + o) + RowBytes(kType, k);
    float* to = tile + o / 2 * 2 * kTileColumns + o % 2 * 8;
    int c = 0;
    for (; c + W::kBlock <= columns; block += RowBytes(kType, W::kBlock)) {
      typename W::Scales scales;
      W::Prepare(block, &scales);
      BRAID_UNROLL for (int part = 0; part < W::kBlock / W::kPart; ++part, c += W::kPart) {
        V8 v[W::kPart / 8];
        W::Load(block, scales, part, v);
        BRAID_UNROLL for (int j = 0; j < W::kPart / 8; ++j) Store(to + 2 * (c + 8 * j), v[j]);
      }
    }
    if constexpr (W::kBlock == 8)
      if (c < columns) Store(to + 2 * c, LoadTail<kType>(w.row(output + o), w.columns));
  }
}

template <DType kType>
void ManyRows(const LinearTask& task, int begin, int end) {
  alignas(64) float tile[kTileOutputs * kTileColumns] = {};  // the other half of an odd output's pair is read, too
  alignas(64) float lanes[kBlockRows * kTileOutputs * 8];
  const Matrix& w = task.op.w;
  for (int output = begin; output < end; output += kTileOutputs) {
    const int outputs = std::min(kTileOutputs, end - output);
    for (int row = 0; row < task.op.T; row += kBlockRows) {
      const int rows = std::min(kBlockRows, task.op.T - row);
      std::fill_n(lanes, rows * kTileOutputs * 8, 0.0f);
      for (int k = 0; k < w.columns; k += kTileColumns) {
        const int columns = std::min(kTileColumns, w.columns - k);
        WidenTile<kType>(w, output, outputs, k, columns, tile);
        const float* x = task.x + int64_t{row} * task.ldx + k;
        for (int r = 0; r < rows; r += kTileRows)
          RowsOnTile<kTileRows>(x + int64_t{r} * task.ldx, std::min(kTileRows, rows - r), task.ldx, tile,
                                (outputs + 1) / 2, columns, lanes + 8 * r * kTileOutputs);
      }
      for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; ++o)
          task.op.y[int64_t{row + r} * w.rows + output + o] = Sum(LoadF32(lanes + 8 * (r * kTileOutputs + o)));
    }
  }
}

template <DType kType>
void LinearOfType(const LinearTask& task, int begin, int end) {
  switch (task.op.T) {
    case 1:
      return FewRows<kType, 1>(task, 0, begin, end);
    case 2:
      return FewRows<kType, 2>(task, 0, begin, end);
    case 3:
      return FewRows<kType, 3>(task, 0, begin, end);
    case 4:
      return FewRows<kType, 4>(task, 0, begin, end);
    default:
      return ManyRows<kType>(task, begin, end);
  }
}

void LinearOutputs(const LinearTask& task, int begin, int end) {
  switch (task.op.w.type) {
    case DType::kF32:
      return LinearOfType<DType::kF32>(task, begin, end);
    case DType::kF16:
      return LinearOfType<DType::kF16>(task, begin, end);
    case DType::kBF16:
      return LinearOfType<DType::kBF16>(task, begin, end);
    case DType::kQ4_0:
      return LinearOfType<DType::kQ4_0>(task, begin, end);
    case DType::kQ8_0:
      return LinearOfType<DType::kQ8_0>(task, begin, end);
    case DType::kQ4_K:
      return LinearOfType<DType::kQ4_K>(task, begin, end);
    case DType::kQ5_K:
      return LinearOfType<DType::kQ5_K>(task, begin, end);
    case DType::kQ6_K:
      return LinearOfType<DType::kQ6_K>(task, begin, end);
  }
}

}  // namespace braid::BRAID_LEVEL
