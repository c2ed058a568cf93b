#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/bounded_queue.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/epoch_member.h"
#include "expert_worker/probe.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/worker_protocol.h"

namespace braid {

// Carries out what WorkerProtocol orders, on two threads: one that computes, and one that sets up the next epoch beside
// it. The stream's thread posts the router's messages; answers go to the stream that is attached. Thread-safe.
//
// Where steps run on a device and the runner can start one behind the other, the computing thread does the work of a
// host for step n + 1 while the device is busy with step n.
class WorkerThreads {
 public:
  // Takes an answer and returns at once; called under a lock, so it must not call back.
  using Answer = std::function<void(v1::AttachRequest)>;

  // The pointers must outlive *this; `runner` is used by the computing thread from now on.
  WorkerThreads(EpochMember::Shared shared, StepRunner* runner, WorkerProbe* probe);
  ~WorkerThreads();  // aborts what is running

  // A new stream. Answers to it begin with its first message.
  void Attach(Answer answer);
  // The stream is lost: aborts what is running and drops every sequence.
  void Detach();
  // An error means that the router has lost its mind: end the stream.
  absl::Status Post(v1::AttachResponse message);

  // The epoch in which this worker can run steps; 0: none.
  uint64_t serving_epoch() const;
  // The last one that was, on any stream; 0: none.
  uint64_t last_served_epoch() const;
  // Waits for what runs to return, so that the next epoch can begin at once. False if it does not within `timeout`.
  bool WaitUntilOutOfStep(absl::Duration timeout) const;
  // What to tell the router now.
  v1::Heartbeat heartbeat() const;

 private:
  // A member that is abandoned goes when its last user lets go of it: that is why it is shared.
  using Member = std::shared_ptr<EpochMember>;
  struct Task {
    WorkerProtocol::Order order;
    Member member;  // of the order's epoch; null: it has none
  };
  // A step that the runner has started.
  struct Running {
    v1::StepPlan plan;
    Member member;
    absl::Time begun;  // as far as it had the device to itself
  };

  // Calls tell(protocol) and carries out what it orders.
  template <typename F>
  void Tell(const F& tell) ABSL_LOCKS_EXCLUDED(mutex_);
  void CarryOut(WorkerProtocol::Order order, std::vector<Member>* abandoned) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Send(v1::AttachRequest message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Do(const Task& task);
  // The computing thread: all orders until the queue is closed.
  void Compute();
  // The next order, if it comes before the step that runs is to be finished.
  std::optional<Task> NextStep();
  bool CanStart(const Task& task) const;
  void StartStep(Task task);
  void FinishStep();
  void GiveUpUnless(const std::function<absl::Status()>& works) const;
  void ReportSequences();

  const EpochMember::Shared shared_;
  StepRunner* const runner_;
  WorkerProbe* const probe_;

  mutable absl::Mutex mutex_;
  WorkerProtocol protocol_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Member> members_ ABSL_GUARDED_BY(mutex_);  // by epoch, but for those abandoned
  Answer answer_ ABSL_GUARDED_BY(mutex_);
  // By WorkerProtocol's promise one order waits at most, and some to forget before it.
  BoundedQueue<Task> set_ups_{16}, steps_{16};
  std::deque<Running> running_;  // of the computing thread; the older one first
  std::thread set_up_thread_, step_thread_;
};

}  // namespace braid
