#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

// The seam for code that reads or waits for time. Cores take absl::Time as an argument instead.

namespace braid {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
  virtual void Sleep(absl::Duration d) = 0;
  static Clock& Real();
};

}  // namespace braid
