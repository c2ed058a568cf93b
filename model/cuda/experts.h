#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "model/cuda/op_timer.h"
#include "model/cuda/step_graphs.h"
#include "model/experts.h"

namespace braid::gpu {

// One MoE layer's work on one device: T rows, each with K experts chosen in routing order (best first). All pointers
// are to device memory. Rows from T on pad the step to a size that a graph was captured for: their experts are below 0.
struct RoutedRows {
  int layer = 0;  // model layer
  int T = 0, D = 0, K = 0;
  DType type = DType::kBF16;         // of x: kBF16, or kF32
  const void* x = nullptr;           // (T, D), normed
  const int32_t* experts = nullptr;  // (T, K); below 0: none
  const float* weights = nullptr;    // (T, K)
  float* y = nullptr;  // (T, D) out: sum over k, in routing order, of weights[t,k] * expert(experts[t,k], x[t])
  OpTimer* timer = nullptr;
};

// Where the experts of a device's steps run: all on it, or spread over the devices of a group. For each step the engine
// calls EnqueueBegin, Enqueue once per MoE layer, in layer order, also with T == 0, and EnqueueEnd; on an error of any
// the step ends there, with Drop. The next step may be enqueued before the last one is waited for: see Engine::Draw.
//
// A step in halves goes through a layer in turns, so that the exchange of one half's rows runs beside the mixer and the
// experts of the other: Begin of half 0, the mixer of half 1, Begin of half 1, Compute, Finish of half 0 with its next
// mixer, Finish of half 1.
class ExpertRunner : public braid::ExpertRunner {
 public:
  // Steps that were captured with this runner. They hold what it exchanges with, so they go when it does, on whichever
  // thread that happens; the engine keeps none of it.
  StepGraphs& graphs() { return graphs_; }

  // Whether the step at hand may be captured, or replayed as it was captured: nothing is done then that a graph cannot
  // hold, and nothing is different from step to step but what lies in device memory.
  virtual bool capturable() const { return true; }
  // What a capture depends on besides its rows: a graph is of use for steps of the shape that it was captured for.
  virtual uint64_t capture_shape() const { return 0; }
  // Whether Wait may ask for the step at hand once more.
  virtual bool may_run_again() const { return false; }
  // Enqueues and returns; what goes wrong later is found when the step's end is waited for. Inside of a capture it
  // neither allocates nor waits.
  virtual absl::Status Enqueue(const RoutedRows& rows, cudaStream_t stream) = 0;
  // Before and behind what may be captured, and never in it: a place for what goes to and from the host, whose memory
  // is another one from step to step, since two of them may be on their way.
  virtual absl::Status EnqueueBegin(cudaStream_t stream) { return absl::OkStatus(); }
  // 0, or the step at hand goes in halves, by these three instead of Enqueue, and this is how many rows that count one
  // may have: half of the step's, or more. What Begin is given may change behind it, but for the weights; y is there
  // after Finish.
  virtual int half_rows() const { return 0; }
  virtual absl::Status Begin(int half, const RoutedRows& rows, cudaStream_t stream);
  virtual absl::Status Compute(cudaStream_t stream);
  virtual absl::Status Finish(int half, cudaStream_t stream);
  virtual absl::Status EnqueueEnd(cudaStream_t stream) { return absl::OkStatus(); }
  // After an error of these: what of the step is on other streams ends before what `stream` is given from now on, and
  // what is on `stream` by now, the runner may want to wait for.
  virtual void Drop(cudaStream_t stream) {}
  // Returns once everything before `event` is done, which stands in the oldest step that was not waited for; a second
  // time in the same step if nothing was begun behind it. On an error nothing may be used of what was done since that
  // step began. kResourceExhausted, on all devices of a group alike: what they had to tell each other did not fit; the
  // step is to be enqueued again, all of it, and will then have the room. So is then the one behind it, if it was
  // enqueued, which is void as well.
  virtual absl::Status Wait(cudaEvent_t event);

  // Hidden states in host memory are for hosts' runners.
  absl::Status Run(const RoutedBatch& batch) final;

 private:
  StepGraphs graphs_;
};

// The expert feed-forwards whose weights are on a device.
struct ExpertGroups {
  int layer = 0, D = 0;
  DType type = DType::kBF16;
  const void* x = nullptr;           // (M, D)
  const int32_t* source = nullptr;   // (rows), the row of x that each row reads
  const int32_t* offsets = nullptr;  // (E + 1): expert e has the rows [offsets[e], offsets[e + 1])
  int rows_max = 0;                  // no fewer than offsets[E], and no more than the engine was made for
  void* y = nullptr;                 // (rows_max, D) of `type` out, not weighted
  OpTimer* timer = nullptr;
};
class ExpertFfn {
 public:
  virtual ~ExpertFfn() = default;
  virtual absl::Status Enqueue(const ExpertGroups& groups, cudaStream_t stream) = 0;
};

}  // namespace braid::gpu
