#include "kernels/short_conv.h"

#include <algorithm>

#include "kernels/cpu/level.h"

namespace braid {
namespace {

// The column of the piece's token i.
void ComputeColumn(const ShortConv& op, const ConvPiece& piece, int i, float* u) {
  const float* b = op.bcx + (int64_t{piece.row} + i) * 3 * op.D;
  const float* x = b + 2 * op.D;
  for (int d = 0; d < op.D; ++d) u[d] = b[d] * x[d];
}

// REQUIRES: the ring still holds the columns from before the step.
void SaveColumns(const ShortConv& op, const ConvPiece& piece, const ConvSave& save) {
  float* u = save.columns;
  for (int position = save.position - (op.taps - 1); position < save.position; ++position, u += op.D) {
    if (position >= piece.position) {
      ComputeColumn(op, piece, position - piece.position, u);
    } else if (position >= 0) {
      std::copy_n(piece.columns + int64_t{position % op.ring} * op.D, op.D, u);
    } else {
      std::fill_n(u, op.D, 0.0f);
    }
  }
}

void StoreColumns(const ShortConv& op, const ConvPiece& piece) {
  for (int i = std::max(0, piece.tokens - op.ring); i < piece.tokens; ++i) {
    ComputeColumn(op, piece, i, piece.columns + int64_t{(piece.position + i) % op.ring} * op.D);
  }
}

}  // namespace

void Run(const ShortConv& op, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T, 8, [&](int begin, int end) {
    auto piece = std::ranges::upper_bound(op.pieces, begin, {}, &ConvPiece::row) - 1;
    for (int row = begin; row < end; ++row) {
      if (row == piece->row + piece->tokens) ++piece;
      level.convolve_row(op, *piece, row);
    }
  });
  // Only now: the rows above read the columns from before the step.
  pool.ParallelFor(static_cast<int>(op.pieces.size()), 8, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      for (const ConvSave& save : op.pieces[i].saves) SaveColumns(op, op.pieces[i], save);
      StoreColumns(op, op.pieces[i]);
    }
  });
}

}  // namespace braid
