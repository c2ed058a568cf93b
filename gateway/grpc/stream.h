#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/audit.h"
#include "gateway/inference.h"

namespace braid {

// What is written down about a call when it ends.
class CallRecord {
 public:
  CallRecord(Audit* audit, std::string route, std::string request_id, std::string model_digest);
  void Note(const CallEvent& event) { record_.Note(event); }
  // Once, at the end. `error`: nothing if the call went well.
  void Write(const std::optional<ApiError>& error);

 private:
  Audit* const audit_;  // may be null
  AuditRecord record_;
};

grpc::Status ToGrpcStatus(const ApiError& error);
// Puts the error's details into the trailing metadata that inference.proto describes. Before Finish.
void AddErrorTrailers(const ApiError& error, grpc::CallbackServerContext* context);

// One server-streaming call: the events of a Call become messages, one write at a time. Lives until gRPC is done with
// it and no event can come any more. A client that goes away cancels the Call; one that does not read is cut off when
// more than kWaitingBytesMax wait for it.
template <typename Response>
class EventStream final : public grpc::ServerWriteReactor<Response>,
                          public std::enable_shared_from_this<EventStream<Response>> {
 public:
  using StartCall = std::function<std::variant<ApiError, std::unique_ptr<Call>>(Inference::Sink)>;
  using Convert = std::vector<Response> (*)(const CallEvent&);
  static constexpr size_t kWaitingBytesMax = 16 << 20;

  // `context` belongs to gRPC and lives as long as the call.
  static std::shared_ptr<EventStream> Create(grpc::CallbackServerContext* context, Convert convert, CallRecord record) {
    std::shared_ptr<EventStream> stream(new EventStream(context, convert, std::move(record)));
    stream->self_ = stream;
    return stream;
  }

  // Exactly one of these two, once. Until then, and while it runs, the call does not end and its request stays valid.
  // Begin may take its time.
  void Begin(const StartCall& start) {
    if (!cancelled()) TryStart(start);
    BeginIsOver();
  }
  void Refuse(ApiError error) {
    Fail(std::move(error));
    BeginIsOver();
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
    }
    ok ? Advance() : OnCancel();
  }

  void OnCancel() override {
    std::unique_ptr<Call> call;  // destroyed without the lock: that may wait for the sink
    {
      absl::MutexLock lock(&mutex_);
      cancelled_ = true;
      call = std::move(call_);
    }
    Advance();
  }

  void OnDone() override {
    const std::shared_ptr<EventStream> last = std::move(self_);  // unless the sink is still at it
  }

 private:
  EventStream(grpc::CallbackServerContext* context, Convert convert, CallRecord record)
      : context_(context), convert_(convert), record_(std::move(record)) {}

  bool closed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_ || ended_; }

  bool cancelled() {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }

  void TryStart(const StartCall& start) {
    auto started = start([weak = this->weak_from_this()](CallEvent event) {
      if (const auto stream = weak.lock()) stream->OnEvent(std::move(event));
    });
    if (auto* error = std::get_if<ApiError>(&started)) return Fail(std::move(*error));
    std::unique_ptr<Call> call = std::get<std::unique_ptr<Call>>(std::move(started));
    absl::MutexLock lock(&mutex_);
    if (!closed()) call_ = std::move(call);  // otherwise it is cancelled on the way out, after the lock
  }

  void BeginIsOver() {
    {
      absl::MutexLock lock(&mutex_);
      begun_ = true;
    }
    Advance();
  }

  // Ends the call with `error`, unless it has ended.
  void Fail(ApiError error) {
    std::unique_ptr<Call> call;
    {
      absl::MutexLock lock(&mutex_);
      if (closed()) return;
      call = std::move(call_);
      ended_ = true;
      error_ = std::move(error);
    }
    Advance();
  }

  void OnEvent(CallEvent event) {
    std::vector<Response> responses = convert_(event);
    bool overrun = false;
    {
      absl::MutexLock lock(&mutex_);
      if (closed()) return;
      record_.Note(event);
      for (Response& response : responses) {
        waiting_bytes_ += response.ByteSizeLong();
        waiting_.push_back(std::move(response));
      }
      overrun = waiting_bytes_ > kWaitingBytesMax;
      if (auto* error = std::get_if<ApiError>(&event)) error_ = std::move(*error);
      ended_ = error_.has_value() || std::holds_alternative<Done>(event);
    }
    if (overrun) return Overrun();
    Advance();
  }

  void Overrun() {
    {
      absl::MutexLock lock(&mutex_);
      ended_ = false;
      waiting_.clear();
    }
    Fail({absl::StatusCode::kCancelled, "slow_reader", "", "the client did not read its answer", std::nullopt});
  }

  // Starts what is due next: a write, the end, or nothing.
  void Advance() {
    bool finish = false;
    {
      absl::MutexLock lock(&mutex_);
      if (writing_ || finished_) return;
      if (cancelled_ || (waiting_.empty() && ended_)) {
        if (!begun_) return;
        finish = finished_ = true;
      } else if (waiting_.empty()) {
        return;
      } else {
        current_ = std::move(waiting_.front());
        waiting_.pop_front();
        waiting_bytes_ -= current_.ByteSizeLong();
        writing_ = true;
      }
    }
    finish ? FinishCall() : this->StartWrite(&current_);
  }

  void FinishCall() {
    std::optional<ApiError> error;
    {
      absl::MutexLock lock(&mutex_);
      if (cancelled_ && !ended_)
        error_ = ApiError{absl::StatusCode::kCancelled, "cancelled", "", "the client cancelled the call", std::nullopt};
      error = error_;
      record_.Write(error);
    }
    if (error) AddErrorTrailers(*error, context_);
    this->Finish(error ? ToGrpcStatus(*error) : grpc::Status::OK);  // `this` may be gone now
  }

  grpc::CallbackServerContext* const context_;
  const Convert convert_;
  std::shared_ptr<EventStream> self_;  // until OnDone
  Response current_;                   // being written

  absl::Mutex mutex_;
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);
  std::deque<Response> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<ApiError> error_ ABSL_GUARDED_BY(mutex_);
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;      // the Call has said its last; what waits is still written
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;  // the client is gone
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace braid
