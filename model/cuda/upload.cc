#include "model/cuda/upload.h"

#include <algorithm>
#include <cstring>

#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/quantize_fp8.h"
#include "kernels/half.h"
#include "kernels/ref/dequant.h"
#include "model/tensor_rows.h"

namespace braid::gpu {
namespace {

constexpr uint64_t kBufferBytes = 8 << 20;  // long enough for PCIe to reach its speed
constexpr int kTurn = 8;                    // rows, see MatrixSource
constexpr int kQ4Block = 32;

struct RowAt {
  int part;
  int64_t row;
};
RowAt FindRow(const MatrixSource& source, int64_t row) {
  if (source.in_turns) return {static_cast<int>(row / kTurn % 2), row / (2 * kTurn) * kTurn + row % kTurn};
  int part = 0;
  while (row >= source.parts[part]->rows) row -= source.parts[part++]->rows;
  return {part, row};
}

// Rows of a matrix in the type that they have on the device. For one thread.
class RowWriter {
 public:
  RowWriter(const MatrixSource& source, DType type) : source_(source), type_(type) {
    for (const TensorView* part : source.parts) readers_.emplace_back(*part);
  }
  absl::Status Write(int64_t row, std::byte* data, std::byte* scales) {
    const RowAt at = FindRow(source_, row);
    const TensorView& part = *source_.parts[at.part];
    const std::byte* const from = readers_[at.part].Row(at.row);
    if (part.dtype == type_ && type_ == DType::kQ4_0) {
      Split(from, part.columns / kQ4Block, data, scales);
    } else if (part.dtype == type_) {
      std::memcpy(data, from, readers_[at.part].row_bytes());
    } else if (type_ == DType::kF32) {
      Dequantize(part.dtype, from, part.columns, reinterpret_cast<float*>(data));
    } else {
      floats_.resize(static_cast<size_t>(part.columns));
      Dequantize(part.dtype, from, part.columns, floats_.data());
      if (type_ == kFp8) return Quantize(part, data, scales);
      Round(reinterpret_cast<uint16_t*>(data));
    }
    return absl::OkStatus();
  }

 private:
  static void Split(const std::byte* blocks, int64_t count, std::byte* quants, std::byte* scales) {
    for (int64_t block = 0; block < count; ++block) {
      std::memcpy(scales + 2 * block, blocks + 18 * block, 2);
      std::memcpy(quants + 16 * block, blocks + 18 * block + 2, 16);
    }
  }
  void Round(uint16_t* to) const {
    for (size_t i = 0; i < floats_.size(); ++i) to[i] = BFloat16FromFloat(floats_[i]);
  }
  absl::Status Quantize(const TensorView& part, std::byte* data, std::byte* scales) const {
    const absl::Status status = QuantizeFp8(floats_.data(), static_cast<int>(part.columns),
                                            reinterpret_cast<uint8_t*>(data), reinterpret_cast<uint16_t*>(scales));
    return status.ok() ? status : Annotate(status, "tensor '" + part.name + "'");
  }

  const MatrixSource& source_;
  const DType type_;
  std::vector<TensorRows> readers_;
  std::vector<float> floats_;
};

}  // namespace

int64_t MatrixSource::rows() const {
  int64_t sum = 0;
  for (const TensorView* part : parts) sum += part->rows;
  return sum;
}

DType StoredType(const MatrixSource& source, DType precision, bool fp8) {
  const auto all = [&](const auto& is) { return std::all_of(source.parts.begin(), source.parts.end(), is); };
  const auto is_float = [](const TensorView* part) { return Info(part->dtype).elements == 1; };
  if (fp8 && source.columns() % 16 == 0 && all(is_float)) return kFp8;
  const DType type = source.parts.front()->dtype;
  const bool read = type == DType::kBF16 || type == DType::kQ4_0 || type == precision;
  return read && all([&](const TensorView* part) { return part->dtype == type; }) ? type : precision;
}

uint64_t DataBytes(DType type, uint64_t columns) {
  if (type == kFp8) return columns;
  return type == DType::kQ4_0 ? columns / 2 : RowBytes(type, columns);
}
uint64_t ScaleBytes(DType type, uint64_t columns) {
  if (type == kFp8) return 2 * static_cast<uint64_t>(Fp8Blocks(static_cast<int>(columns)));
  return type == DType::kQ4_0 ? columns / kQ4Block * 2 : 0;
}

absl::StatusOr<std::unique_ptr<Uploader>> Uploader::Create(ThreadPool* pool) {
  std::unique_ptr<Uploader> uploader(new Uploader(pool));
  ASSIGN_OR_RETURN(uploader->stream_, CreateStream());
  for (Buffer& buffer : uploader->buffers_) {
    ASSIGN_OR_RETURN(buffer.memory, AllocatePinned(kBufferBytes));
    ASSIGN_OR_RETURN(buffer.sent, CreateEvent());
  }
  return uploader;
}

void Uploader::Watch(std::function<bool()> stop, std::function<void(uint64_t bytes)> shown) {
  stop_ = std::move(stop);
  shown_ = std::move(shown);
}

absl::StatusOr<std::byte*> Uploader::Take() {
  if (stop_ && stop_()) return absl::CancelledError("loading weights was stopped");
  current_ = 1 - current_;
  RETURN_IF_ERROR(CudaError(cudaEventSynchronize(buffers_[current_].sent.get()), "copying weights to the device"));
  return static_cast<std::byte*>(buffers_[current_].memory.get());
}

absl::Status Uploader::Send(const std::byte* from, uint64_t bytes, const void* to) {
  return CudaError(cudaMemcpyAsync(const_cast<void*>(to), from, bytes, cudaMemcpyHostToDevice, stream_.get()),
                   "copying weights to the device");
}

absl::Status Uploader::Sent(uint64_t bytes) {
  if (shown_) shown_(bytes);
  return CudaError(cudaEventRecord(buffers_[current_].sent.get(), stream_.get()), "copying weights to the device");
}

absl::Status Uploader::FillRows(const MatrixSource& from, DType type, int64_t first, int64_t rows, std::byte* buffer) {
  const auto columns = static_cast<uint64_t>(from.columns());
  const uint64_t data_bytes = DataBytes(type, columns), scale_bytes = ScaleBytes(type, columns);
  std::byte* const scales = buffer + static_cast<uint64_t>(rows) * data_bytes;
  absl::Mutex mutex;
  absl::Status error;
  pool_.ParallelFor(static_cast<int>(rows), 16, [&](int begin, int end) {
    RowWriter writer(from, type);
    for (int64_t row = begin; row < end; ++row) {
      const absl::Status status = writer.Write(first + row, buffer + static_cast<uint64_t>(row) * data_bytes,
                                               scales + static_cast<uint64_t>(row) * scale_bytes);
      if (status.ok()) continue;
      absl::MutexLock lock(&mutex);
      error.Update(status);
      return;
    }
  });
  return error;
}

absl::Status Uploader::Put(const MatrixSource& from, const Matrix& to, int64_t first_row) {
  const auto columns = static_cast<uint64_t>(from.columns());
  const uint64_t data_bytes = DataBytes(to.type, columns), scale_bytes = ScaleBytes(to.type, columns);
  CHECK_EQ(from.columns(), to.columns);
  CHECK_LE(first_row + from.rows(), to.rows);
  const auto piece_rows = static_cast<int64_t>(kBufferBytes / (data_bytes + scale_bytes));
  CHECK(piece_rows > 0);
  for (int64_t begin = 0; begin < from.rows(); begin += piece_rows) {
    const int64_t rows = std::min(piece_rows, from.rows() - begin);
    const auto count = static_cast<uint64_t>(rows), at = static_cast<uint64_t>(first_row + begin);
    ASSIGN_OR_RETURN(std::byte* const buffer, Take());
    RETURN_IF_ERROR(FillRows(from, to.type, begin, rows, buffer));
    RETURN_IF_ERROR(Send(buffer, count * data_bytes, static_cast<const std::byte*>(to.data) + at * data_bytes));
    if (scale_bytes > 0) {
      RETURN_IF_ERROR(Send(buffer + count * data_bytes, count * scale_bytes,
                           reinterpret_cast<const std::byte*>(to.scales) + at * scale_bytes));
    }
    RETURN_IF_ERROR(Sent(count * (data_bytes + scale_bytes)));
  }
  return absl::OkStatus();
}

absl::Status Uploader::Put(const void* from, uint64_t bytes, const void* to) {
  for (uint64_t at = 0; at < bytes; at += kBufferBytes) {
    const uint64_t some = std::min(kBufferBytes, bytes - at);
    ASSIGN_OR_RETURN(std::byte* const buffer, Take());
    std::memcpy(buffer, static_cast<const std::byte*>(from) + at, some);
    RETURN_IF_ERROR(Send(buffer, some, static_cast<const std::byte*>(to) + at));
    RETURN_IF_ERROR(Sent(some));
  }
  return absl::OkStatus();
}

absl::Status Uploader::Finish() {
  return CudaError(cudaStreamSynchronize(stream_.get()), "copying weights to the device");
}

}  // namespace braid::gpu
