#pragma once

#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/router.pb.h"
#include "braid/v1/worker.pb.h"

// What the core decides and the rim carries out. Each worker and each sequence gets its own in this order; what is for
// workers may go before what is for sequences.

namespace braid {

struct SendToWorker {
  WorkerId worker;
  v1::AttachResponse message;
};

// Ends a worker's stream. The core has already forgotten the worker.
struct CloseWorker {
  WorkerId worker;
  absl::Status status;
};

struct SendToSequence {
  SequenceId sequence;
  v1::GenerateSequenceResponse event;
};

// Ends a sequence's call, behind all its events. The core has already forgotten the sequence.
struct EndSequence {
  SequenceId sequence;
  absl::Status status;
  absl::Duration retry_after;  // zero: nothing to say
};

using Action = std::variant<SendToWorker, CloseWorker, SendToSequence, EndSequence>;

}  // namespace braid
