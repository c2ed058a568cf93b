#include "model/tensor_writer.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "kernels/ref/dequant.h"
#include "model/quantize.h"

namespace braid {
namespace {

constexpr int64_t kPieceValues = 4 << 20;  // 16 MB of float32: long enough for all threads, short next to memory

// Rows [begin, end) of `source` as `type`.
absl::Status ConvertRows(const TensorView& source, DType type, int64_t begin, int64_t end, std::byte* dst) {
  const uint64_t source_row = RowBytes(source.dtype, static_cast<uint64_t>(source.columns));
  const uint64_t row_bytes = RowBytes(type, static_cast<uint64_t>(source.columns));
  std::vector<float> values(static_cast<size_t>(source.columns));
  for (int64_t row = begin; row < end; ++row, dst += row_bytes) {
    const std::byte* src = source.data + static_cast<uint64_t>(row) * source_row;
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
  std::vector<std::byte> piece;
  for (const TensorView& part : tensor.parts) {
    const uint64_t row_bytes = RowBytes(tensor.dtype, static_cast<uint64_t>(part.columns));
    const int64_t rows_max = std::max<int64_t>(1, kPieceValues / part.columns);
    for (int64_t begin = 0; begin < part.rows; begin += rows_max) {
      const int64_t rows = std::min(rows_max, part.rows - begin);
      piece.resize(static_cast<size_t>(rows) * row_bytes);
      SharedStatus status;
      pool->ParallelFor(static_cast<int>(rows), 64, [&](int first, int last) {
        status.Update(ConvertRows(part, tensor.dtype, begin + first, begin + last,
                                  piece.data() + static_cast<uint64_t>(first) * row_bytes));
      });
      RETURN_IF_ERROR(status.Get());
      RETURN_IF_ERROR(file->Write(piece));
      progress(piece.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace braid
