#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace braid {

// A few threads for work that is too long for a callback: reading messages, templates, the tokenizer. Thread-safe.
class WorkPool {
 public:
  WorkPool(int threads, size_t queue_max);
  ~WorkPool();  // does what is queued, then joins

  // False if the queue is full; `work` is then not called.
  [[nodiscard]] bool TryRun(std::function<void()> work) { return queue_.TryPush(std::move(work)); }

 private:
  BoundedQueue<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace braid
