#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace braid {

// How the values of a matrix lie.
enum class Layout : uint8_t {
  kRows,    // row-major, possibly unaligned: rows of RowBytes(type, columns) bytes, one after the other
  kPanels,  // as below, at a multiple of 64 bytes
};

// The layout that the int8 kernels read: a panel is 32 outputs (rows of the matrix) side by side, so that one vector
// register holds the same four columns of sixteen outputs and one broadcast of four activations serves them all.
// Weights are unsigned; what is subtracted from them is put right by the sums that a QuantBlock carries. It is also a
// file format (model/gguf_format.h): a change is a new version there.
//
// A panel is its blocks of 32 columns one after the other; the last panel of a matrix is padded with zeros. In a block,
// for o in [0, 16) of half h and i in [0, 4), with q the stored quant as an unsigned number:
//
//   nibbles(h, k), k < 4: byte 4 o + i is q[16 h + o][4 k + i] | q[16 h + o][16 + 4 k + i] << 4, their low four bits
//   bytes(h, k),   k < 8: byte 4 o + i is q[16 h + o][4 k + i]
//   fifth(h):             bit k, k < 8, of byte 4 o + i is the fifth bit of q[16 h + o][4 k + i]
//   upper(h, u),   u < 2: bits 2 t, 2 t + 1, t < 4, of byte 4 o + i are the fifth and the sixth of
//                         q[16 h + o][16 u + 4 t + i]
//
//   Q4_0   f16 scale[32]; nibbles(0, 0..3), nibbles(1, 0..3)                         576 bytes a block
//   Q8_0   f16 scale[32]; bytes(0, 0..7), bytes(1, 0..7), of the quants plus 128     1,088 bytes a block
//   Q4_K   before every 8 blocks: f16 d[32], f16 dmin[32]
//          each block: u8 scale[32], u8 min[32]; nibbles as Q4_0                     4,736 bytes per 8
//   Q5_K   as Q4_K, then in each block fifth(0), fifth(1)                            5,760 bytes per 8
//   Q6_K   before every 8 blocks: f16 d[32]
//          each block: i8 scale of columns 0..15 [32], of 16..31 [32]; nibbles as Q4_0;
//          upper(0, 0..1), upper(1, 0..1)                                            6,720 bytes per 8
//
// Every vector lies at a multiple of 64 bytes from the panel's begin.
inline constexpr int kPanelOutputs = 32;
inline constexpr int kPanelColumns = 32;  // of a block, and of a QuantBlock
inline constexpr uint64_t kPanelAlignment = 64;

// The types that have panels: the block types, each read by int8 kernels.
constexpr bool HasPanels(DType type) { return Info(type).elements > 1; }

// What a panel is made of: groups of `blocks` blocks, each of `block_bytes`, after `head_bytes` that they share.
struct PanelGroup {
  int blocks, head_bytes, block_bytes;

  constexpr uint64_t bytes() const { return static_cast<uint64_t>(head_bytes + blocks * block_bytes); }
};
constexpr PanelGroup PanelGroupOf(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {1, 0, 576};
    case DType::kQ8_0:
      return {1, 0, 1088};
    case DType::kQ4_K:
      return {8, 128, 576};
    case DType::kQ5_K:
      return {8, 128, 704};
    case DType::kQ6_K:
      return {8, 64, 832};
    default:
      return {1, 0, 0};
  }
}

// REQUIRES, here and below: HasPanels(type), columns are whole blocks of the type.
constexpr uint64_t PanelBytes(DType type, uint64_t columns) {
  return columns / static_cast<uint64_t>(Info(type).elements) * PanelGroupOf(type).bytes();
}
constexpr uint64_t PanelsOf(uint64_t rows) { return rows / kPanelOutputs + (rows % kPanelOutputs != 0); }
constexpr uint64_t PackedBytes(DType type, uint64_t rows, uint64_t columns) {
  return PanelsOf(rows) * PanelBytes(type, columns);
}

// Those of a whole matrix in either layout. REQUIRES: columns are whole blocks of the type.
constexpr uint64_t MatrixBytes(DType type, Layout layout, uint64_t rows, uint64_t columns) {
  return layout == Layout::kPanels ? PackedBytes(type, rows, columns) : rows * RowBytes(type, columns);
}

// Packs `outputs` rows, at most 32, that lie one after the other at `rows`, to PanelBytes at `to`.
void PackPanel(DType type, uint64_t columns, const std::byte* rows, int outputs, std::byte* to);

// The columns [first, first + columns) of row `output` of a panel as the row that was packed had them, bit for bit.
// REQUIRES: `first`, too, is whole blocks of the type.
void UnpackRow(DType type, const std::byte* panel, int output, uint64_t first, uint64_t columns, std::byte* to);

}  // namespace braid
