#include "expert_worker/backend.h"
#include "expert_worker/cuda_backend.h"

namespace braid {

absl::StatusOr<CudaDevice> FindCudaDevice(int index) {
  return absl::UnimplementedError(
      "--device cuda: this program was built without CUDA; build it with cmake -DBRAID_CUDA=ON, or leave --device out "
      "to "
      "run on the CPU");
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts) {
  return FindCudaDevice(parts.device.index).status();
}

}  // namespace braid
