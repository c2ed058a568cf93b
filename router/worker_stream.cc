#include "router/worker_stream.h"

#include <utility>

#include "base/check.h"
#include "proto/status.h"

namespace braid {

WorkerStream* WorkerStream::Start(grpc::CallbackServerContext* context, WorkerId id, Slots::Slot slot, Inbox* inbox) {
  std::shared_ptr<WorkerStream> stream(new WorkerStream(context, id, std::move(slot), inbox));
  stream->self_ = stream;
  CHECK(inbox->TryPush(WorkerOpened{stream}));
  return stream.get();
}

void WorkerStream::Read() {
  absl::MutexLock lock(&mutex_);
  if (!finished_) StartRead(&incoming_);
}

void WorkerStream::Send(v1::AttachResponse message) {
  absl::MutexLock lock(&mutex_);
  if (end_ || (message.has_heartbeat() && !outbox_.empty())) return;
  if (outbox_.size() >= kOutboxMax) {
    if (!done_) context_->TryCancel();
    return;
  }
  outbox_.push_back(std::move(message));
  Pump();
}

void WorkerStream::Close(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (end_) return;
  end_ = status;
  outbox_.clear();
  Pump();
}

void WorkerStream::Abort() {
  absl::MutexLock lock(&mutex_);
  if (!done_) context_->TryCancel();
}

void WorkerStream::OnReadDone(bool ok) {
  if (!ok) return ReportEnd();
  CHECK(inbox_->TryPush(WorkerSpoke{shared_from_this()}));
}

void WorkerStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) outbox_.clear();  // the read fails as well, and says so
  Pump();
}

void WorkerStream::OnCancel() { ReportEnd(); }

void WorkerStream::OnDone() {
  const std::shared_ptr<WorkerStream> self = std::move(self_);  // may be the last to hold this
  absl::MutexLock lock(&mutex_);
  done_ = true;
}

void WorkerStream::ReportEnd() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(end_reported_, true)) return;
  }
  CHECK(inbox_->TryPush(WorkerEnded{shared_from_this()}));
}

void WorkerStream::Pump() {
  if (writing_ || finished_) return;
  if (!outbox_.empty()) {
    current_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    StartWrite(&current_);
  } else if (end_) {
    finished_ = true;
    Finish(ToGrpc(*end_));
  }
}

}  // namespace braid
