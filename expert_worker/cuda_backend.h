#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace braid {

class Backend;
struct BackendParts;

// The backend of a GPU. Programs link an implementation of these two: that over CUDA, or no_cuda_backend.cc.

// CheckPresent's part.
absl::Status CheckCudaDevice(int index);
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts);

}  // namespace braid
