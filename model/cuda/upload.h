#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/matrix.h"
#include "kernels/thread_pool.h"
#include "model/cuda/device.h"
#include "model/tensors.h"

// Weights on their way from a model's file to a device.

namespace braid::gpu {

// What a matrix on the device is made of: the rows of one or more matrices of a file, one behind the other, or of two
// in turns of eight, as GroupedLinear's swiglu has gates and ups.
struct MatrixSource {
  std::vector<const TensorView*> parts;
  bool in_turns = false;

  int64_t rows() const;
  int64_t columns() const { return parts.front()->columns; }
};

// How the matrix is stored on a device whose activations are `precision`: as in the file if kernels read that and all
// parts have it, else dequantised to `precision`. With `fp8`, what the file has in floats is quantised to kFp8.
DType StoredType(const MatrixSource& source, DType precision, bool fp8 = false);
// Bytes of `columns` of a row: kQ4_0's quants are in `data`, its scales beside.
uint64_t DataBytes(DType type, uint64_t columns);
uint64_t ScaleBytes(DType type, uint64_t columns);

// Copies through two pinned buffers: one is filled, by all threads of `pool`, while the other is on its way. Has a
// stream of its own, so that steps go on meanwhile. For one thread at a time.
class Uploader {
 public:
  // `pool` and what `stop` uses must outlive *this.
  static absl::StatusOr<std::unique_ptr<Uploader>> Create(ThreadPool* pool);

  // Whom to ask, every few megabytes, whether to go on, and whom to tell how many bytes went since he was told last.
  void Watch(std::function<bool()> stop, std::function<void(uint64_t bytes)> shown);

  // Enqueue; Finish waits. kCancelled once `stop` has said true.
  // The rows of `from` as the rows [first_row, first_row + from.rows()) of `to`.
  absl::Status Put(const MatrixSource& from, const Matrix& to, int64_t first_row);
  absl::Status Put(const void* from, uint64_t bytes, const void* to);
  absl::Status Finish();

 private:
  struct Buffer {
    PinnedMemory memory;
    Event sent;
  };

  explicit Uploader(ThreadPool* pool) : pool_(*pool) {}
  // The next buffer, once nothing is on its way from it any more.
  absl::StatusOr<std::byte*> Take();
  absl::Status Send(const std::byte* from, uint64_t bytes, const void* to);
  absl::Status Sent(uint64_t bytes);  // from the buffer taken last
  absl::Status FillRows(const MatrixSource& from, DType type, int64_t first, int64_t rows, std::byte* buffer);

  ThreadPool& pool_;
  std::function<bool()> stop_;
  std::function<void(uint64_t bytes)> shown_;
  Stream stream_;
  std::array<Buffer, 2> buffers_;
  int current_ = 0;
};

}  // namespace braid::gpu
