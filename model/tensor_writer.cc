#include "model/tensor_writer.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/panels.h"
#include "base/status.h"
#include "kernels/ref/dequant.h"
#include "model/quantize.h"
#include "model/tensor_rows.h"

namespace braid {
namespace {

constexpr int64_t kUnitRows = 2 * kPanelOutputs;  // what one thread takes at a time
constexpr int64_t kPieceValues = 4 << 20;         // 16 MB of float32: long enough for all threads, short next to memory

// Rows [begin, end) of `source` as `type`.
absl::Status ConvertRows(const TensorView& source, DType type, int64_t begin, int64_t end, std::byte* dst) {
  TensorRows rows(source);
  const uint64_t row_bytes = RowBytes(type, static_cast<uint64_t>(source.columns));
  std::vector<float> values(static_cast<size_t>(source.columns));
  for (int64_t row = begin; row < end; ++row, dst += row_bytes) {
    const std::byte* src = rows.Row(row);
    if (source.dtype == type) {
      std::memcpy(dst, src, row_bytes);
      continue;
    }
    Dequantize(source.dtype, src, source.columns, values.data());
    const absl::Status status = Quantize(type, values.data(), source.columns, dst);
    if (!status.ok()) return Annotate(status, "tensor '" + source.name + "', row " + std::to_string(row));
  }
  return absl::OkStatus();
}

// The same in panels. REQUIRES: begin is the first row of a panel, end of one or of nothing.
absl::Status ConvertPanels(const TensorView& source, DType type, int64_t begin, int64_t end, std::byte* dst) {
  const auto columns = static_cast<uint64_t>(source.columns);
  std::vector<std::byte> rows(kPanelOutputs * RowBytes(type, columns));
  for (int64_t first = begin; first < end; first += kPanelOutputs, dst += PanelBytes(type, columns)) {
    const int64_t last = std::min<int64_t>(first + kPanelOutputs, end);
    RETURN_IF_ERROR(ConvertRows(source, type, first, last, rows.data()));
    PackPanel(type, columns, rows.data(), static_cast<int>(last - first), dst);
  }
  return absl::OkStatus();
}

// The first error of several threads.
class SharedStatus {
 public:
  void Update(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }
  absl::Status Get() const {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status WriteTensorData(const PlannedTensor& tensor, ThreadPool* pool, OutputFile* file,
                             const std::function<void(uint64_t bytes)>& progress) {
  const auto convert = tensor.layout == Layout::kPanels ? ConvertPanels : ConvertRows;
  std::vector<std::byte> piece;
  for (const TensorView& part : tensor.parts) {
    const auto columns = static_cast<uint64_t>(part.columns);
    const uint64_t unit_bytes = MatrixBytes(tensor.dtype, tensor.layout, kUnitRows, columns);
    const int64_t rows_max = std::max<int64_t>(1, kPieceValues / kUnitRows / part.columns) * kUnitRows;
    for (int64_t begin = 0; begin < part.rows; begin += rows_max) {
      const int64_t rows = std::min(rows_max, part.rows - begin);
      piece.resize(MatrixBytes(tensor.dtype, tensor.layout, static_cast<uint64_t>(rows), columns));
      SharedStatus status;
      pool->ParallelFor(static_cast<int>((rows + kUnitRows - 1) / kUnitRows), 1, [&](int first, int last) {
        status.Update(convert(part, tensor.dtype, begin + first * kUnitRows,
                              std::min(begin + last * kUnitRows, begin + rows),
                              piece.data() + static_cast<uint64_t>(first) * unit_bytes));
      });
      RETURN_IF_ERROR(status.Get());
      RETURN_IF_ERROR(file->Write(piece));
      progress(piece.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace braid
