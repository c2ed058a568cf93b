#include "model/cuda/step_graphs.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace braid::gpu {

absl::Status StepGraphs::Run(const Key& key, cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue,
                             int* launches) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    RETURN_IF_ERROR(enqueue());
    entries_.push_front({key, GraphExec()});
    if (entries_.size() > kGraphsMax) entries_.pop_back();
    return absl::OkStatus();
  }
  std::rotate(entries_.begin(), found, found + 1);
  Entry& entry = entries_.front();
  if (!entry.graph) RETURN_IF_ERROR(Capture(stream, enqueue, &entry));
  *launches = entry.launches;
  return CudaError(cudaGraphLaunch(entry.graph.get(), stream), "launching a step's graph");
}

absl::Status StepGraphs::Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue, Entry* entry) {
  // Other threads may do what they like meanwhile: they load experts.
  RETURN_IF_ERROR(CudaError(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step"));
  const absl::Status enqueued = enqueue();
  cudaGraph_t captured = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream, &captured);
  const Owned<cudaGraph_t, cudaGraphDestroy> owned(captured);
  RETURN_IF_ERROR(enqueued);
  RETURN_IF_ERROR(CudaError(error, "capturing a step"));
  cudaGraphExec_t exec = nullptr;
  RETURN_IF_ERROR(CudaError(cudaGraphInstantiate(&exec, captured, 0), "making a step's graph"));
  entry->graph = GraphExec(exec);
  size_t nodes = 0;
  RETURN_IF_ERROR(CudaError(cudaGraphGetNodes(captured, nullptr, &nodes), "making a step's graph"));
  entry->launches = static_cast<int>(nodes);
  return absl::OkStatus();
}

int RowsOfClass(int rows, int rows_max) {
  int size = rows == 0 ? 0 : 1;
  while (size < rows) {
    // 1, 2, 4, 8, 16, then two to each doubling: 32, 48, 64, 96, 128, ...
    const bool power = (size & (size - 1)) == 0;
    size = size < 32 ? 2 * size : power ? size / 2 * 3 : size / 3 * 4;
  }
  return std::min(size, rows_max);
}

}  // namespace braid::gpu
