#pragma once

#include <memory>
#include <variant>

#include "base/bounded_queue.h"
#include "base/ids.h"

namespace braid {

class GenerateCall;
class WorkerStream;

// What gRPC's threads hand to the router's thread. A call puts in at most two inputs in its life and a worker's stream
// at most three at a time (the next message is read when the last has been handled), and both hold a slot as long as
// any of them is queued: with the number of slots the queue can never overflow.

struct CallStarted {
  std::shared_ptr<GenerateCall> call;
};
struct CallCancelled {
  std::shared_ptr<GenerateCall> call;
};
struct WorkerOpened {
  std::shared_ptr<WorkerStream> stream;
};
struct WorkerSpoke {  // stream->incoming()
  std::shared_ptr<WorkerStream> stream;
};
struct WorkerEnded {
  std::shared_ptr<WorkerStream> stream;
};
struct DrainRequested {};
struct StopRequested {};

inline constexpr int kInputsPerCall = 2;
inline constexpr int kInputsPerStream = 3;
inline constexpr int kInputsOther = 2;

using Input =
    std::variant<CallStarted, CallCancelled, WorkerOpened, WorkerSpoke, WorkerEnded, DrainRequested, StopRequested>;
using Inbox = BoundedQueue<Input>;

}  // namespace braid
