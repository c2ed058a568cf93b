#include "kernels/panels.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "kernels/half.h"

// Both directions go through a block of 32 columns of one row in the plainest form: quants as unsigned numbers, and the
// bytes of its scales as the file has them.

namespace braid {
namespace {

constexpr int kGroupBlocks = 8;  // of the K types: 256 columns

struct Shape {
  int group_blocks, group_bytes, block_bytes;
};
constexpr Shape ShapeOf(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {1, 0, 576};
    case DType::kQ8_0:
      return {1, 0, 1088};
    case DType::kQ4_K:
      return {kGroupBlocks, 128, 576};
    case DType::kQ5_K:
      return {kGroupBlocks, 128, 704};
    case DType::kQ6_K:
      return {kGroupBlocks, 64, 832};
    default:
      return {1, 0, 0};
  }
}

// Where block `block` of a panel and its group begin.
struct Place {
  size_t group, block;
};
Place PlaceOf(DType type, int block) {
  const Shape shape = ShapeOf(type);
  const size_t group_bytes = shape.group_bytes + size_t{1} * shape.group_blocks * shape.block_bytes;
  const size_t group = static_cast<size_t>(block / shape.group_blocks) * group_bytes;
  return {group, group + shape.group_bytes + static_cast<size_t>(block % shape.group_blocks) * shape.block_bytes};
}

uint8_t Byte(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }

using Quants = std::array<uint8_t, kPanelColumns>;

// The 6-bit scale or minimum `j` of Q4_K and Q5_K, from their twelve bytes; kernels/ref/dequant.cc draws them.
uint8_t KScale(const std::byte* s, int j) {
  return j < 4 ? Byte(s, j) & 63 : (Byte(s, j + 4) & 15) | (Byte(s, j - 4) >> 6) << 4;
}
uint8_t KMin(const std::byte* s, int j) {
  return j < 4 ? Byte(s, j + 4) & 63 : Byte(s, j + 4) >> 4 | (Byte(s, j) >> 6) << 4;
}

// Block `block` of a stored row.
Quants QuantsOf(DType type, const std::byte* row, int block) {
  Quants q;
  const int j = block % kGroupBlocks;
  const std::byte* p =
      row + RowBytes(type, kPanelColumns * static_cast<uint64_t>(Info(type).elements == 32 ? block : block - j));
  for (int i = 0; i < kPanelColumns; ++i) {
    switch (type) {
      case DType::kQ4_0:
        q[i] = i < 16 ? Byte(p, 2 + i) & 15 : Byte(p, 2 + i - 16) >> 4;
        break;
      case DType::kQ8_0:
        q[i] = static_cast<uint8_t>(Byte(p, 2 + i) + 128);
        break;
      case DType::kQ4_K:
        q[i] = Byte(p, 16 + 32 * (j / 2) + i) >> 4 * (j % 2) & 15;
        break;
      case DType::kQ5_K:
        q[i] = (Byte(p, 48 + 32 * (j / 2) + i) >> 4 * (j % 2) & 15) | (Byte(p, 16 + i) >> j & 1) << 4;
        break;
      default: {  // Q6_K
        const int half = j / 4, quarter = j % 4;
        q[i] = (Byte(p, 64 * half + 32 * (quarter % 2) + i) >> 4 * (quarter / 2) & 15) |
               (Byte(p, 128 + 32 * half + i) >> 2 * quarter & 3) << 4;
      }
    }
  }
  return q;
}

// The place of a row's column in the vectors of a block: which vector of its half, which byte of it.
struct Cell {
  int vector, byte;
};
Cell NibbleCell(int o, int column) { return {column % 16 / 4, 4 * o + column % 4}; }
Cell ByteCell(int o, int column) { return {column / 4, 4 * o + column % 4}; }

void PutBits(std::byte* p, int shift, int value) { *p |= static_cast<std::byte>(value << shift); }
int GetBits(const std::byte* p, int shift, int mask) { return static_cast<uint8_t>(*p) >> shift & mask; }

// Calls visit(byte, shift in it, shift in the quant, mask) for the pieces of column `column` of output `output`.
template <typename P, typename Visit>
void ForPieces(DType type, P* block, int output, int column, const Visit& visit) {
  const int half = output / 16, o = output % 16;
  if (type == DType::kQ8_0) {
    const Cell cell = ByteCell(o, column);
    return visit(block + 64 + 512 * half + 64 * cell.vector + cell.byte, 0, 0, 255);
  }
  const Cell cell = NibbleCell(o, column);
  visit(block + 64 + 256 * half + 64 * cell.vector + cell.byte, column / 16 * 4, 0, 15);
  if (type == DType::kQ5_K) visit(block + 576 + 64 * half + cell.byte, column / 4, 4, 1);
  if (type == DType::kQ6_K) visit(block + 576 + 128 * half + 64 * (column / 16) + cell.byte, column % 16 / 4 * 2, 4, 3);
}

void PackBlock(DType type, const std::byte* row, int block, int output, std::byte* panel) {
  const Place place = PlaceOf(type, block);
  std::byte *group = panel + place.group, *to = panel + place.block;
  const int j = block % kGroupBlocks;
  const bool grouped = ShapeOf(type).group_blocks > 1;
  const std::byte* p = row + RowBytes(type, kPanelColumns * static_cast<uint64_t>(grouped ? block - j : block));
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ8_0:
      std::memcpy(to + 2 * output, p, 2);
      break;
    case DType::kQ4_K:
    case DType::kQ5_K:
      std::memcpy(group + 2 * output, p, 2);
      std::memcpy(group + 64 + 2 * output, p + 2, 2);
      to[output] = static_cast<std::byte>(KScale(p + 4, j));
      to[32 + output] = static_cast<std::byte>(KMin(p + 4, j));
      break;
    default:  // Q6_K
      std::memcpy(group + 2 * output, p + 208, 2);
      to[output] = p[192 + 2 * j];
      to[32 + output] = p[192 + 2 * j + 1];
  }
  const Quants quants = QuantsOf(type, row, block);
  for (int column = 0; column < kPanelColumns; ++column) {
    ForPieces(type, to, output, column,
              [&](std::byte* at, int shift, int from, int mask) { PutBits(at, shift, quants[column] >> from & mask); });
  }
}

float Half(const std::byte* p) { return FloatFromHalf(LoadU16(p)); }

// What kernels/ref/dequant.cc makes of a quant, operation by operation.
void DequantizeBlock(DType type, const std::byte* panel, int block, int output, float* to) {
  const Place place = PlaceOf(type, block);
  const std::byte *group = panel + place.group, *from = panel + place.block;
  for (int column = 0; column < kPanelColumns; ++column) {
    int q = 0;
    ForPieces(type, from, output, column,
              [&](const std::byte* at, int shift, int bit, int mask) { q |= GetBits(at, shift, mask) << bit; });
    switch (type) {
      case DType::kQ4_0:
        to[column] = static_cast<float>(q - 8) * Half(from + 2 * output);
        break;
      case DType::kQ8_0:
        to[column] = static_cast<float>(q - 128) * Half(from + 2 * output);
        break;
      case DType::kQ4_K:
      case DType::kQ5_K:
        to[column] = Half(group + 2 * output) * static_cast<float>(Byte(from, output)) * static_cast<float>(q) -
                     Half(group + 64 + 2 * output) * static_cast<float>(Byte(from, 32 + output));
        break;
      default: {  // Q6_K
        const auto scale = static_cast<int8_t>(Byte(from, 32 * (column / 16) + output));
        to[column] = Half(group + 2 * output) * static_cast<float>(scale) * static_cast<float>(q - 32);
      }
    }
  }
}

}  // namespace

void PackPanel(const Matrix& from, int panel, std::byte* to) {
  CHECK(HasPanels(from.type) && from.layout == Layout::kRows);
  const int first = panel * kPanelOutputs, outputs = std::min(kPanelOutputs, from.rows - first);
  CHECK(outputs > 0);
  std::memset(to, 0, PanelBytes(from.type, static_cast<uint64_t>(from.columns)));
  for (int output = 0; output < outputs; ++output) {
    for (int block = 0; block < from.columns / kPanelColumns; ++block)
      PackBlock(from.type, from.row(first + output), block, output, to);
  }
}

void DequantizePackedRow(const Matrix& from, int row, float* to) {
  CHECK(from.layout == Layout::kPanels);
  const std::byte* panel =
      from.data + static_cast<size_t>(row / kPanelOutputs) * PanelBytes(from.type, static_cast<uint64_t>(from.columns));
  for (int block = 0; block < from.columns / kPanelColumns; ++block)
    DequantizeBlock(from.type, panel, block, row % kPanelOutputs, to + block * kPanelColumns);
}

}  // namespace braid
