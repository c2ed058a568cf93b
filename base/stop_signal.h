#pragma once

#include "absl/time/time.h"

namespace braid {

// SIGINT and SIGTERM as something to wait for. Construct it first in main, before any thread: the signals are blocked
// in the constructing thread, its later children inherit that, and only Wait() takes them. SIGPIPE is ignored as well:
// a peer that went away is an error code, not a death.
class StopSignal {
 public:
  StopSignal();
  // True once one of the signals has arrived, false after `timeout`.
  bool Wait(absl::Duration timeout);

 private:
  bool stopped_ = false;
};

}  // namespace braid
