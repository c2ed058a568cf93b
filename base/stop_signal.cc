#include "base/stop_signal.h"

#include <pthread.h>

#include <csignal>

namespace braid {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

StopSignal::StopSignal() {
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

bool StopSignal::Wait(absl::Duration timeout) {
  const sigset_t set = StopSignals();
  const timespec wait = absl::ToTimespec(timeout);
  if (!stopped_) stopped_ = sigtimedwait(&set, nullptr, &wait) > 0;
  return stopped_;
}

}  // namespace braid
