#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/epoch_member.h"

namespace braid {

// The one thread that computes. The stream's thread posts the router's messages; answers go to the stream that is
// attached when they are ready, if it is still the one that asked. Thread-safe.
class StepThread {
 public:
  // Messages that may wait. The router sends at most a plan ahead; this many is a router that has lost its mind.
  static constexpr size_t kWaitingMax = 64;

  // Takes an answer and returns at once; called under a lock, so it must not call back.
  using Answer = std::function<void(v1::AttachRequest)>;

  explicit StepThread(EpochMember* member);  // must outlive *this, and is used by this thread from now on
  ~StepThread();                             // aborts what is running

  // A new stream. Answers to it begin with its first message.
  void Attach(Answer answer);
  // The stream is lost: aborts what is running and drops every sequence.
  void Detach();
  // A Prepare aborts what is running if its epoch is higher than the stream's last, else it is ignored. False if too
  // much is waiting: end the stream.
  bool Post(v1::AttachResponse message);

  // The epoch in which this worker can run steps; 0: none.
  uint64_t configured_epoch() const;

 private:
  struct Item {
    uint64_t generation = 0;
    bool drop = false;  // leave the epoch; the message is not set
    v1::AttachResponse message;
  };

  void Loop();
  void BeginGeneration(Item item, const std::string& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !waiting_.empty(); }

  EpochMember* member_;
  mutable absl::Mutex mutex_;
  std::deque<Item> waiting_ ABSL_GUARDED_BY(mutex_);
  Answer answer_ ABSL_GUARDED_BY(mutex_);
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t prepared_epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // of this stream
  uint64_t configured_epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace braid
