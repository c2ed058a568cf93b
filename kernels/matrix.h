#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/panels.h"

namespace braid {

// A stored matrix. Borrowed.
struct Matrix {
  DType type = DType::kF32;
  int rows = 0;
  int columns = 0;
  const std::byte* data = nullptr;
  Layout layout = Layout::kRows;

  // REQUIRES: layout is kRows.
  size_t row_bytes() const { return RowBytes(type, static_cast<uint64_t>(columns)); }
  const std::byte* row(int64_t i) const { return data + i * static_cast<int64_t>(row_bytes()); }
};

}  // namespace braid
