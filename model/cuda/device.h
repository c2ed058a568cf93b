#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// One GPU, and what a process owns on it.

namespace braid::gpu {

// OK for cudaSuccess. kResourceExhausted if memory is what is missing, else kInternal: a device that has failed once
// fails in all that this process asks of it from then on.
absl::Status CudaError(cudaError_t error, std::string_view what);

struct Device {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  uint64_t memory_bytes = 0, free_bytes = 0;
  // To its neighbours, as those made for servers have: A100, H100, B200.
  bool has_nvlink() const { return minor == 0; }
};

// Finds device `index` and makes it the calling thread's; other threads that use it call UseDevice. kNotFound if there
// is no driver or no such device, kFailedPrecondition if the driver is too old or the device cannot run our kernels;
// the message is one sentence that says what to do.
absl::StatusOr<Device> OpenDevice(int index);
absl::Status UseDevice(int index);

// Whether kernels for these architectures ("80 90a 100a": nvcc's), or those of them from `least` on, run on a device:
// those for 8.0 on 8.0 and its successors below 9.0, those with an 'a' on that very one.
bool RunsOn(std::string_view architectures, int major, int minor, int least = 0);
// kFailedPrecondition, in one sentence that says what to do, if the kernels that run on it do not multiply FP8 by FP8.
absl::Status CheckMultipliesFp8(const Device& device);
// Whether it multiplies FP8 by FP8 faster than bfloat16 by bfloat16. 9.0 and 10.0 could, but not by the instructions of
// our kernels: see kernels/cuda/README.md.
bool GainsByFp8Rows(const Device& device);

// Owners. Null until Create; a failed destruction has been reported by whatever failed before it.
template <typename T, cudaError_t (*kDestroy)(T)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(T value) : value_(value) {}
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Owned() {
    if (value_ != nullptr) (void)kDestroy(value_);
  }
  T get() const { return value_; }
  explicit operator bool() const { return value_ != nullptr; }

 private:
  T value_ = nullptr;
};
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using DeviceMemory = Owned<void*, cudaFree>;
using PinnedMemory = Owned<void*, cudaFreeHost>;  // of the host, where a device reads and writes while it works

absl::StatusOr<Stream> CreateStream();  // in no order with the legacy stream
absl::StatusOr<Event> CreateEvent();    // without times
absl::StatusOr<Event> CreateTimedEvent();
absl::StatusOr<DeviceMemory> AllocateDevice(uint64_t bytes);
absl::StatusOr<PinnedMemory> AllocatePinned(uint64_t bytes);

}  // namespace braid::gpu
