#include "expert_worker/backend.h"
#include "expert_worker/cuda_backend.h"

namespace braid {

namespace {

absl::Status NoCuda() {
  return absl::UnimplementedError(
      "--device cuda: this program was built without CUDA; build it with cmake -DBRAID_CUDA=ON, or leave --device out "
      "to run on the CPU");
}

}  // namespace

absl::Status CheckCudaDevice(const ComputeDevice&) { return NoCuda(); }

absl::StatusOr<CudaDevice> DescribeCudaDevice(int) { return NoCuda(); }

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts&) { return NoCuda(); }

}  // namespace braid
