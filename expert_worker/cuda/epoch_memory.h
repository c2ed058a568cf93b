#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "model/cuda/device.h"

namespace braid::gpu {

// The memory that the experts of epochs need beside weights, all of it taken at start: to take or free any later would
// wait for what the device is doing, and so perhaps for peers. Thread-safe.
class EpochMemory {
 public:
  struct Sizes {
    size_t scratch_bytes = 0;  // of the device, while a step runs
    size_t device_bytes = 0;   // as long as an epoch lives; all are multiples of 256
    size_t host_bytes = 0;     // the same, pinned

    // What Create is given.
    size_t all_device_bytes() const { return scratch_bytes + kEpochsMax * device_bytes; }
  };
  // That live at a time: one is set up, one waits for its first step, one runs its last though it is over, and one more
  // that somebody is about to let go of.
  static constexpr int kEpochsMax = 4;

  // What one epoch has, for nobody else until it is destroyed. Begins as whatever it was last.
  struct Part {
    std::span<std::byte> device, host;
  };
  struct PutBack {
    EpochMemory* memory = nullptr;
    void operator()(const Part* part) const { memory->Return(part); }
  };
  using OwnedPart = std::unique_ptr<const Part, PutBack>;

  // `device` is all_device_bytes at a multiple of 256, and must outlive *this. Errors of CUDA.
  static absl::StatusOr<std::unique_ptr<EpochMemory>> Create(std::byte* device, const Sizes& sizes);

  // Shared by all epochs, whose steps go one after the other.
  std::span<std::byte> scratch() const { return scratch_; }
  // *this must outlive it. kUnavailable if there are as many epochs as can be.
  absl::StatusOr<OwnedPart> Take();

 private:
  EpochMemory() = default;
  void Return(const Part* part);

  PinnedMemory pinned_;
  std::span<std::byte> scratch_;
  std::array<Part, kEpochsMax> parts_;
  absl::Mutex mutex_;
  std::array<bool, kEpochsMax> taken_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace braid::gpu
