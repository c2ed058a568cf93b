#pragma once

#include <cstddef>

#include "base/panels.h"
#include "kernels/matrix.h"

namespace braid {

// Packs the rows [panel * 32, panel * 32 + 32) of `from`, which lies in rows, to PanelBytes at `to`.
void PackPanel(const Matrix& from, int panel, std::byte* to);

// Row `row` of a matrix in panels as floats, the same bits as Dequantize gives for the row that was packed.
void DequantizePackedRow(const Matrix& from, int row, float* to);

}  // namespace braid
