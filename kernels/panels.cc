#include "kernels/panels.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/ref/dequant.h"

namespace braid {
namespace {

constexpr int kPieceColumns = 256;            // a multiple of every block
constexpr size_t kPieceBytes = 8 * (32 + 2);  // in the largest block type

}  // namespace

void PackPanel(const Matrix& from, int panel, std::byte* to) {
  CHECK(from.layout == Layout::kRows);
  const int first = panel * kPanelOutputs;
  PackPanel(from.type, static_cast<uint64_t>(from.columns), from.row(first), std::min(kPanelOutputs, from.rows - first),
            to);
}

void DequantizePackedRow(const Matrix& from, int row, float* to) {
  CHECK(from.layout == Layout::kPanels);
  const std::byte* panel =
      from.data + static_cast<size_t>(row / kPanelOutputs) * PanelBytes(from.type, static_cast<uint64_t>(from.columns));
  std::array<std::byte, kPieceBytes> piece;
  for (int first = 0; first < from.columns; first += kPieceColumns) {
    const int columns = std::min(kPieceColumns, from.columns - first);
    UnpackRow(from.type, panel, row % kPanelOutputs, static_cast<uint64_t>(first), static_cast<uint64_t>(columns),
              piece.data());
    Dequantize(from.type, piece.data(), columns, to + first);
  }
}

}  // namespace braid
