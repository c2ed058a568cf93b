#include "model/cuda/step_graphs.h"

#include <spdlog/spdlog.h>

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
    KeepWithinBounds();
    return absl::OkStatus();
  }
  std::rotate(entries_.begin(), found, found + 1);
  Entry& entry = entries_.front();
  if (entry.plain) return enqueue();
  if (!entry.graph) {
    const absl::Status captured = Capture(stream, enqueue, &entry);
    if (!captured.ok() && !absl::IsResourceExhausted(captured)) return captured;
    KeepWithinBounds();
  }
  // The first launch takes memory, too.
  const cudaError_t error = entry.graph ? cudaGraphLaunch(entry.graph.get(), stream) : cudaErrorMemoryAllocation;
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // of nobody else
    spdlog::warn("no memory for the graph of a step of {} rows: its launches are made one by one", key.shape.rows);
    entry.plain = true;
    entry.graph = GraphExec();
    return enqueue();
  }
  *launches = entry.launches;
  return CudaError(error, "launching a step's graph");
}

void StepGraphs::KeepWithinBounds() {
  int nodes = 0;
  for (const Entry& entry : entries_) nodes += entry.launches;
  while (entries_.size() > 1 && (entries_.size() > kEntriesMax || nodes > kNodesMax)) {
    nodes -= entries_.back().launches;
    entries_.pop_back();
  }
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
  size_t nodes = 0;
  RETURN_IF_ERROR(CudaError(cudaGraphGetNodes(captured, nullptr, &nodes), "making a step's graph"));
  cudaGraphExec_t exec = nullptr;
  RETURN_IF_ERROR(CudaError(cudaGraphInstantiate(&exec, captured, 0), "making a step's graph"));
  entry->graph = GraphExec(exec);
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
