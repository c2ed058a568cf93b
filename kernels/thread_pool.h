#pragma once

#include <memory>

#include "absl/functional/function_ref.h"

namespace braid {

// The threads of one worker's step: fork-join, spinning briefly before they park, so that an idle server uses no CPU.
// Work is split over output rows only, never over a sum: results do not depend on the number of threads. Ranges are
// claimed as threads come for them, so that one whose core is taken away for a while delays little.
//
// A pool of as many threads as this process has cores pins them, one to each core; the caller's own thread is left
// alone, and finds the first core free. A smaller pool shares the machine with others and leaves it to the scheduler.
// One caller at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // >= 1, the caller counts as one
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const;
  // Runs body(begin, end) over disjoint ranges that cover [0, n), each at least `grain` long (but the last), claimed
  // dynamically. Returns when all are done. `body` must not throw and must not call ParallelFor.
  void ParallelFor(int n, int grain, absl::FunctionRef<void(int begin, int end)> body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace braid
