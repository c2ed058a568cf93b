#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/router.pb.h"
#include "router/inbox.h"
#include "router/slots.h"

namespace braid {

// The gateway's end of one sequence: a reactor that only hands over. Events wait here while the gateway is slow to
// read; neighbours of a kind are joined, so what waits is at most the answer itself. Thread-safe.
class GenerateCall : public grpc::ServerWriteReactor<v1::GenerateSequenceResponse>,
                     public std::enable_shared_from_this<GenerateCall> {
 public:
  // A call that tells `inbox` of its start and, if it comes to that, of its cancellation. It keeps itself alive until
  // gRPC is done with it. `context` and `inbox` must outlive it.
  static GenerateCall* Start(grpc::CallbackServerContext* context, v1::GenerateSequenceRequest request, SequenceId id,
                             Slots::Slot slot, Inbox* inbox);
  // A call that ends at once.
  static GenerateCall* Refuse(grpc::CallbackServerContext* context, const absl::Status& status,
                              absl::Duration retry_after);

  SequenceId id() const { return id_; }
  const v1::GenerateSequenceRequest& request() const { return request_; }

  // Nothing happens after End, or after the call was cancelled.
  void Send(v1::GenerateSequenceResponse event);
  void End(const absl::Status& status, absl::Duration retry_after);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateCall(grpc::CallbackServerContext* context, v1::GenerateSequenceRequest request, SequenceId id,
               std::optional<Slots::Slot> slot, Inbox* inbox);
  void Abandon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts the next write, or the end behind the last one, unless a write is under way.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  grpc::CallbackServerContext* const context_;
  const v1::GenerateSequenceRequest request_;
  const SequenceId id_;
  Inbox* const inbox_;

  absl::Mutex mutex_;
  std::deque<v1::GenerateSequenceResponse> waiting_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  absl::Duration retry_after_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  v1::GenerateSequenceResponse current_;  // gRPC's while writing_
  std::optional<Slots::Slot> slot_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone
};

}  // namespace braid
