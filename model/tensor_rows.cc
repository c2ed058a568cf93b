#include "model/tensor_rows.h"

#include "base/panels.h"

namespace braid {

TensorRows::TensorRows(const TensorView& tensor)
    : tensor_(tensor), row_bytes_(RowBytes(tensor.dtype, static_cast<uint64_t>(tensor.columns))) {}

const std::byte* TensorRows::Row(int64_t row) {
  if (tensor_.layout == Layout::kRows) return tensor_.data + static_cast<uint64_t>(row) * row_bytes_;
  const auto columns = static_cast<uint64_t>(tensor_.columns);
  unpacked_.resize(row_bytes_);
  UnpackRow(tensor_.dtype,
            tensor_.data + static_cast<uint64_t>(row / kPanelOutputs) * PanelBytes(tensor_.dtype, columns),
            static_cast<int>(row % kPanelOutputs), 0, columns, unpacked_.data());
  return unpacked_.data();
}

}  // namespace braid
