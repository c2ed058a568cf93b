#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "absl/status/status.h"
#include "model/cuda/device.h"
#include "model/step_profile.h"

namespace braid::gpu {

// Times what a stream does, op by op: an event behind each, which itself takes a microsecond or two of it. Its times
// are the device's, not the host's: a step begins only once most of it has been enqueued. Not for captures.
class OpTimer {
 public:
  // Of the step that is enqueued from now on. Costs some milliseconds.
  void BeginStep(cudaStream_t stream);
  // All since the last lap, or since the beginning, was `op`.
  void Lap(StepOp op, cudaStream_t stream);
  // Adds the laps since the last call to `profile`. REQUIRES: the stream has come to them.
  absl::Status AddTo(StepProfile* profile);

 private:
  void Record(cudaStream_t stream);

  std::vector<Event> events_;  // as many as a step ever had
  std::vector<StepOp> laps_;   // lap i ends with event i + 1
  size_t recorded_ = 0, added_ = 0;
  absl::Status status_;
};

// For those who may be timed: `timer` is nullptr unless they are.
inline void Lap(OpTimer* timer, StepOp op, cudaStream_t stream) {
  if (timer != nullptr) timer->Lap(op, stream);
}

}  // namespace braid::gpu
