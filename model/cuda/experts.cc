#include "model/cuda/experts.h"

#include "model/cuda/device.h"

namespace braid::gpu {

absl::Status ExpertRunner::Begin(int, const RoutedRows&, cudaStream_t) { return absl::InternalError("not in halves"); }
absl::Status ExpertRunner::Compute(cudaStream_t) { return absl::InternalError("not in halves"); }
absl::Status ExpertRunner::Finish(int, cudaStream_t) { return absl::InternalError("not in halves"); }

absl::Status ExpertRunner::Run(const RoutedBatch&) {
  return absl::FailedPreconditionError("the experts of a device do not run for a host's engine");
}

absl::Status ExpertRunner::Wait(cudaEvent_t event) {
  return CudaError(cudaEventSynchronize(event), "running a step on the device");
}

}  // namespace braid::gpu
