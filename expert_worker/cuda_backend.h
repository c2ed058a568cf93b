#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace braid {

class Backend;
struct BackendParts;
struct ComputeDevice;

// The backend of a GPU. Programs link an implementation of these: that over CUDA, or no_cuda_backend.cc.

// CheckPresent's part.
absl::Status CheckCudaDevice(const ComputeDevice& device);

// What a GPU says of itself.
struct CudaDevice {
  std::string name;
  uint64_t free_bytes = 0;
  double read_bytes_per_second = 0;    // from its memory, at most
  double multiply_ops_per_second = 0;  // of dense products in bfloat16, at most
};
absl::StatusOr<CudaDevice> DescribeCudaDevice(int index);

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts);

}  // namespace braid
