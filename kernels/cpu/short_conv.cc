#include "kernels/short_conv.h"

#include <algorithm>

#include "kernels/cpu/level.h"

namespace braid {
namespace {

void StoreColumns(const ShortConv& op, const ConvPiece& piece) {
  for (int i = std::max(0, piece.tokens - op.ring); i < piece.tokens; ++i) {
    const float* b = op.bcx + (int64_t{piece.row} + i) * 3 * op.D;
    const float* x = b + 2 * op.D;
    float* u = piece.columns + int64_t{(piece.position + i) % op.ring} * op.D;
    for (int d = 0; d < op.D; ++d) u[d] = b[d] * x[d];
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
    for (int i = begin; i < end; ++i) StoreColumns(op, op.pieces[i]);
  });
}

}  // namespace braid
