#include "expert_worker/backend.h"
#include "expert_worker/cuda_backend.h"

namespace braid {

absl::Status CheckCudaDevice(int index) {
  return absl::UnimplementedError(
      "--device cuda: this program was built without CUDA; build it with cmake -DBRAID_CUDA=ON, or leave --device out "
      "to "
      "run on the CPU");
}

absl::StatusOr<CudaDevice> DescribeCudaDevice(int index) { return CheckCudaDevice(index); }

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts) {
  return CheckCudaDevice(parts.device.index);
}

}  // namespace braid
