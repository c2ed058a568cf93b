#pragma once

#include "kernels/matrix.h"
#include "model/tensors.h"

namespace braid {

// A tensor as the kernels see it. Readers have bounded the dimensions far below int.
inline Matrix AsMatrix(const TensorView& tensor) {
  return {tensor.dtype, static_cast<int>(tensor.rows), static_cast<int>(tensor.columns), tensor.data, tensor.layout};
}

}  // namespace braid
