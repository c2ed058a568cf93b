#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace braid {

// The layout that the int8 kernels read: a panel is 32 outputs (rows of the matrix) side by side, so that one vector
// register holds the same four columns of sixteen outputs and one broadcast of four activations serves them all.
// Weights are unsigned; what is subtracted from them is put right by the sums that a QuantBlock carries.
//
// A panel is its blocks of 32 columns one after the other; the last panel of a matrix is padded with zero scales. In a
// block, for o in [0, 16) of half h and i in [0, 4), with q the stored quant as an unsigned number:
//
//   nibbles(h, j), j < 4:  byte 4 o + i is q[16 h + o][4 j + i] | q[16 h + o][16 + 4 j + i] << 4   (their low four
//   bits) bytes(h, j),   j < 8:  byte 4 o + i is q[16 h + o][4 j + i]
//
//   Q4_0  block: f16 scale[32]; nibbles(0, 0..3), nibbles(1, 0..3)                                       576 bytes
//   Q8_0  block: f16 scale[32]; bytes(0, 0..7), bytes(1, 0..7), the quants plus 128                     1088 bytes
//   Q4_K  every 8 blocks: f16 d[32], f16 dmin[32]; each block: u8 scale[32], u8 min[32], nibbles         4736 bytes per
//   8 Q5_K  as Q4_K, then fifth(0), fifth(1): bit j of byte 4 o + i is the fifth bit of the column 4 j + i, j < 8
//                                                                                                        5760 bytes per
//                                                                                                        8
//   Q6_K  every 8 blocks: f16 d[32]; each block: i8 scale of columns 0..15 [32], of 16..31 [32], nibbles,
//         upper(0, 0..1), upper(1, 0..1): bits 2 t of byte 4 o + i of upper(h, u) are the fifth and sixth bit of
//         the column 16 u + 4 t + i, t < 4                                                               6720 bytes per
//         8
//
// Every vector lies at a multiple of 64 bytes from the panel's begin.
inline constexpr int kPanelOutputs = 32;
inline constexpr int kPanelColumns = 32;  // of a block, and of a QuantBlock

// The types that have panels: the block types, each read by int8 kernels.
constexpr bool HasPanels(DType type) { return Info(type).elements > 1; }

// REQUIRES, here and below: HasPanels(type), columns are whole blocks of the type.
constexpr uint64_t PanelBytes(DType type, uint64_t columns) {
  const uint64_t blocks = columns / kPanelColumns;
  switch (type) {
    case DType::kQ4_0:
      return blocks * 576;
    case DType::kQ8_0:
      return blocks * 1088;
    case DType::kQ4_K:
      return blocks / 8 * 4736;
    case DType::kQ5_K:
      return blocks / 8 * 5760;
    case DType::kQ6_K:
      return blocks / 8 * 6720;
    default:
      return 0;
  }
}
constexpr uint64_t PackedBytes(DType type, uint64_t rows, uint64_t columns) {
  return (rows + kPanelOutputs - 1) / kPanelOutputs * PanelBytes(type, columns);
}

// Packs the rows [panel * 32, panel * 32 + 32) of `from`, which lies in rows, to PanelBytes at `to`.
void PackPanel(const Matrix& from, int panel, std::byte* to);

// Row `row` of a matrix in panels as floats, the same bits as Dequantize gives for the row that was packed.
void DequantizePackedRow(const Matrix& from, int row, float* to);

}  // namespace braid
