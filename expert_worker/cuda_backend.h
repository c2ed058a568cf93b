#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace braid {

class Backend;
struct BackendParts;

// The backend of a GPU. Programs link an implementation of these two: that over CUDA, or no_cuda_backend.cc.

struct CudaDevice {
  std::string name;
  // At most, by what it says of itself: from its memory, and of dense bfloat16 products.
  double read_bytes_per_second = 0, multiply_ops_per_second = 0;
};
// CheckPresent's part: an error is one sentence, and takes no time.
absl::StatusOr<CudaDevice> FindCudaDevice(int index);
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts);

}  // namespace braid
