#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/tensors.h"

namespace braid {

// Reads the rows of a tensor as files have them that are not packed, whatever its layout. Borrows the tensor.
class TensorRows {
 public:
  explicit TensorRows(const TensorView& tensor);

  uint64_t row_bytes() const { return row_bytes_; }
  // row_bytes() of them, valid until the next call.
  const std::byte* Row(int64_t row);

 private:
  const TensorView& tensor_;
  const uint64_t row_bytes_;
  std::vector<std::byte> unpacked_;
};

}  // namespace braid
