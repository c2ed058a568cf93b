#pragma once

#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace braid {

// Runs functions later, on one thread of its own, in the order of their times. Thread-safe. The functions must not
// block.
class Timers {
 public:
  Timers();
  ~Timers() { Stop(); }

  // Dropped if stopped.
  void After(absl::Duration delay, std::function<void()> run);
  // Waits for a function that is running, drops the others. Not from a function.
  void Stop();

 private:
  void Loop();

  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::multimap<absl::Time, std::function<void()>> due_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace braid
