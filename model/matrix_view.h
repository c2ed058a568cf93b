#pragma once

#include <vector>

#include "kernels/matrix.h"
#include "kernels/ref/dequant.h"
#include "model/tensors.h"

namespace braid {

// A tensor as the kernels see it. Readers have bounded the dimensions far below int.
inline Matrix AsMatrix(const TensorView& tensor) {
  return {tensor.dtype, static_cast<int>(tensor.rows), static_cast<int>(tensor.columns), tensor.data, tensor.layout};
}

// Its values, row by row; none of an empty one. REQUIRES: it lies in rows.
inline std::vector<float> Floats(const TensorView& tensor) {
  if (tensor.empty()) return {};
  std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.columns));
  Dequantize(tensor.dtype, tensor.data, static_cast<int64_t>(values.size()), values.data());
  return values;
}

// The same as (columns, rows).
inline std::vector<float> Transposed(const TensorView& tensor) {
  const std::vector<float> from = Floats(tensor);
  std::vector<float> to(from.size());
  for (int64_t r = 0; r < tensor.rows; ++r)
    for (int64_t c = 0; c < tensor.columns; ++c) to[c * tensor.rows + r] = from[r * tensor.columns + c];
  return to;
}

}  // namespace braid
