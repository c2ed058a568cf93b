#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/bounded_queue.h"
#include "braid/v1/worker.grpc.pb.h"
#include "expert_worker/probe.h"
#include "expert_worker/worker_threads.h"

namespace grpc {
class Channel;
}

namespace braid {

// Keeps one stream open to the router, for ever: says Hello, passes messages to the threads and their answers back,
// beats in both directions. When the stream is lost or silent it starts again with a growing pause. Threads of its own,
// gRPC's blocking API: there is one stream, and a step is never waited for on it. Thread-safe.
class RouterLink {
 public:
  // `threads` and `probe` must outlive *this. `hello` lacks its epoch.
  RouterLink(std::shared_ptr<grpc::Channel> channel, v1::Hello hello, WorkerThreads* threads, WorkerProbe* probe);
  ~RouterLink();  // ends the stream at once

  // Says Leaving and waits until the router ends the stream, at most `grace`; nothing is started again.
  void Leave(absl::Duration grace);

  // Empty while the router has welcomed this worker, else why not.
  std::string NotAttached() const;

 private:
  struct Session;

  void Loop();
  // One stream from Hello to its end; says how it ended.
  absl::Status RunSession(Session* session);
  void Read(Session* session);
  void OnWelcome(const v1::Welcome& welcome, Session* session);
  void Write(Session* session);
  void Watch(Session* session);
  void AwaitStep();
  void SetState(const std::string& state);
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over_; }

  const std::unique_ptr<v1::WorkerControl::Stub> stub_;
  const v1::Hello hello_;
  WorkerThreads* const threads_;
  WorkerProbe* const probe_;
  absl::Notification stop_;  // no new session

  mutable absl::Mutex mutex_;
  std::string state_ ABSL_GUARDED_BY(mutex_) = "connecting to the router";
  Session* session_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the one that runs, if any
  bool over_ ABSL_GUARDED_BY(mutex_) = false;           // the loop has ended
  std::thread thread_;
};

}  // namespace braid
