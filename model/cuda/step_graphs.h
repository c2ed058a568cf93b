#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "model/cuda/device.h"
#include "model/cuda/step_inputs.h"

namespace braid::gpu {

// The decode steps of each shape as graphs: a launch instead of hundreds. A shape that comes for the first time is
// enqueued plainly, which also is when the driver loads what it needs; it is captured when it comes again. Graphs take
// memory that nobody has planned: where there is none for one more, its shape stays plain.
//
// One that is still running when *this is destroyed is freed by the driver when it is done.
class StepGraphs {
 public:
  // What all together may take of a device. By what others have measured an operation takes 65 KB of it.
  static constexpr int kNodesMax = 1 << 14;
  static constexpr uint64_t kBytesMax = uint64_t{kNodesMax} * 65000;

  // What a graph is of use for again: steps whose launches are the same.
  struct Key {
    StepShape shape, second_half;
    uint64_t capture_shape = 0;  // ExpertRunner's
    friend bool operator==(const Key&, const Key&) = default;
  };

  // Puts what `enqueue` enqueues on `stream`; `launches` says of how many operations the graph is, if it was one. On an
  // error nothing is known of what is on the stream.
  absl::Status Run(const Key& key, cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue, int* launches);
  int size() const { return static_cast<int>(entries_.size()); }

 private:
  struct Entry {
    Key key;
    GraphExec graph;  // null: seen once
    int launches = 0;
    bool plain = false;  // there was no memory for it
  };
  // A dozen classes of rows, a few of contexts; what was used longest ago goes.
  static constexpr size_t kEntriesMax = 64;

  absl::Status Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue, Entry* entry);
  void KeepWithinBounds();

  std::deque<Entry> entries_;  // used last: first
};

// The class of a decode step with so many rows: enough to be replayed often, near enough to pad little.
int RowsOfClass(int rows, int rows_max);

}  // namespace braid::gpu
