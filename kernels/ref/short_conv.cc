#include "kernels/short_conv.h"

namespace braid::ref {

void Run(const ShortConv& op) {
  for (const ConvPiece& piece : op.pieces) {
    for (int d = 0; d < op.D; ++d) {
      for (int i = 0; i < piece.tokens; ++i) {
        const float* bcx = op.bcx + int64_t{piece.row + i} * 3 * op.D + d;
        const int position = piece.position + i;
        // One column at a time, through the ring even inside the piece.
        piece.columns[int64_t{position % op.ring} * op.D + d] = bcx[0] * bcx[2 * op.D];
        double sum = 0;
        for (int back = 0; back < op.taps && back <= position; ++back) {
          const float u = piece.columns[int64_t{(position - back) % op.ring} * op.D + d];
          sum += double{op.kernel[int64_t{op.taps - 1 - back} * op.D + d]} * double{u};
        }
        op.y[int64_t{piece.row + i} * op.D + d] = static_cast<float>(sum * double{bcx[op.D]});
        for (const ConvSave& save : piece.saves) {
          for (int back = 1; back < op.taps && save.position == position + 1; ++back) {
            const int from = save.position - back;
            save.columns[int64_t{op.taps - 1 - back} * op.D + d] =
                from < 0 ? 0 : piece.columns[int64_t{from % op.ring} * op.D + d];
          }
        }
      }
    }
  }
}

}  // namespace braid::ref
