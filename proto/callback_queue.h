#pragma once

namespace braid {

// gRPC 1.51 runs all callback calls of a process on one shared queue, which lives as long as some server or channel
// uses it. Its teardown races with its own threads, and deadlocks when the last user is dropped inside a callback. This
// takes a reference that is never given back. Call before the first callback server or channel; cheap when called
// again.
void HoldCallbackQueue();

}  // namespace braid
