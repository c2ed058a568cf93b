#include "gateway/timers.h"

#include <utility>

#include "absl/time/clock.h"

namespace braid {

Timers::Timers() : thread_([this] { Loop(); }) {}

void Timers::After(absl::Duration delay, std::function<void()> run) {
  absl::MutexLock lock(&mutex_);
  if (stopped_) return;
  due_.emplace(absl::Now() + delay, std::move(run));
  changed_.Signal();
}

void Timers::Stop() {
  std::multimap<absl::Time, std::function<void()>> dropped;  // destroyed outside the lock
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    dropped.swap(due_);
    changed_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void Timers::Loop() {
  absl::MutexLock lock(&mutex_);
  while (!stopped_) {
    const absl::Time next = due_.empty() ? absl::InfiniteFuture() : due_.begin()->first;
    if (absl::Now() < next) {
      changed_.WaitWithDeadline(&mutex_, next);
      continue;
    }
    std::function<void()> run = std::move(due_.begin()->second);
    due_.erase(due_.begin());
    mutex_.Unlock();
    run();
    run = nullptr;
    mutex_.Lock();
  }
}

}  // namespace braid
