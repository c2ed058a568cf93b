#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "router/inbox.h"
#include "router/slots.h"

namespace braid {

// A worker's stream: a reactor that only hands over. Thread-safe.
class WorkerStream : public grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>,
                     public std::enable_shared_from_this<WorkerStream> {
 public:
  // More than the protocol ever has on its way to a worker that reads.
  static constexpr size_t kOutboxMax = 32;

  // A stream that tells `inbox` of its opening, of each message asked for with Read, and of its end. It keeps itself
  // alive until gRPC is done with it. `context` and `inbox` must outlive it.
  static WorkerStream* Start(grpc::CallbackServerContext* context, WorkerId id, Slots::Slot slot, Inbox* inbox);

  WorkerId id() const { return id_; }

  // Asks for the next message.
  void Read();
  // The message of a WorkerSpoke input, until the next Read.
  const v1::AttachRequest& incoming() const { return incoming_; }
  // Nothing happens after Close. A heartbeat is left out if something else is on its way. A worker that does not read
  // what it is sent loses its stream.
  void Send(v1::AttachResponse message);
  void Close(const absl::Status& status);
  // Breaks the stream if it is still there.
  void Abort();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WorkerStream(grpc::CallbackServerContext* context, WorkerId id, Slots::Slot slot, Inbox* inbox)
      : context_(context), id_(id), inbox_(inbox), slot_(std::move(slot)) {}
  void ReportEnd();
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  grpc::CallbackServerContext* const context_;
  const WorkerId id_;
  Inbox* const inbox_;
  const Slots::Slot slot_;

  absl::Mutex mutex_;
  std::deque<v1::AttachResponse> outbox_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool end_reported_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  v1::AttachResponse current_;          // gRPC's while writing_
  v1::AttachRequest incoming_;          // gRPC's between Read and OnReadDone, then the router thread's
  std::shared_ptr<WorkerStream> self_;  // until OnDone
};

}  // namespace braid
