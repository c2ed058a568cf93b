#pragma once

// Streams of the fake CUDA runtime (README.md), for whoever else puts work on them: the fakes of cuBLASLt and NCCL.
//
// A stream is a queue. Nothing runs when it is enqueued: work is done while somebody waits or asks (or by a thread in
// the background, a little later), one operation at a time, of a stream that the seed chooses. What two streams do is
// in no order but that of events.

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

namespace fake {

enum class Progress {
  kDone,
  kMoved,    // did something, and will be asked again
  kWaiting,  // for somebody else: a peer, another stream. Will be asked again; others go on meanwhile
};

// Work of one stream. `advance` is called, by one thread at a time, until it says kDone; it must not block, wait for a
// stream, or call the runtime. Device memory may be touched only inside of it, and what it touches must be declared
// (DeclareRead, DeclareWrite or Copy of fake_order.h): it runs Hidden. An error makes the stream's device fail for
// good, as a kernel that faults does.
struct Operation {
  std::string name;  // for messages: "ncclGroup of rank 1, 2 sends, 2 receives"
  std::function<Progress(cudaError_t* error)> advance;
};

// Makes a fresh Operation each time a captured graph is launched. Called with the runtime's lock held: it must call
// none of these functions, nor the runtime.
using MakeOperation = std::function<Operation()>;

// Puts work on `stream`, or into the graph that it captures. nullptr is the legacy stream.
cudaError_t Enqueue(cudaStream_t stream, MakeOperation make);

// Whether [p, p + bytes) lies in one allocation of device memory of the calling thread's current device (or `device`).
bool IsDeviceMemory(const void* p, size_t bytes, int device = -1);

// The device that a stream belongs to.
int DeviceOf(cudaStream_t stream);

}  // namespace fake
