#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/audit.h"
#include "gateway/http/api.h"
#include "gateway/http/message.h"
#include "gateway/http/routes.h"
#include "gateway/inference.h"

namespace braid {

// Where the inference's threads leave events for the thread that owns the socket. Holds at most what one call yields:
// its tokens are bounded by max_tokens. Thread-safe.
class CallMailbox {
 public:
  // `wake` is called, from any thread, when there is something to take; it must not block.
  explicit CallMailbox(std::function<void()> wake) : wake_(std::move(wake)) {}
  void Push(CallEvent event);
  std::vector<CallEvent> TakeAll();
  void Close();  // afterwards `wake` is never called and events are dropped

 private:
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  std::vector<CallEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// One request and its answer as it comes into being: what to put on the wire, when it is complete, and what to write
// down about it. Knows no socket. Not thread-safe, except for the sink.
class HttpExchange {
 public:
  HttpExchange(RouteMatch match, std::string method, HttpDelivery delivery);
  ~HttpExchange() { Cancel(); }

  const RouteMatch& match() const { return match_; }
  const std::string& method() const { return method_; }
  HttpDelivery& delivery() { return delivery_; }

  // The whole answer at once.
  void Reply(const HttpReply& reply, std::string* wire);

  // For a call: events given to the sink, before or after Start, are taken by OnEvents once started.
  Inference::Sink OpenSink(std::function<void()> wake);
  void Start(StartedCall call);
  void OnEvents(std::string* wire);
  void Comment(std::string* wire);  // a sign of life, if a stream is open
  // Destroys the call. An answer not complete then stays incomplete: the client went away, or must be cut off.
  void Cancel();

  bool complete() const { return complete_; }  // nothing more will come for the wire
  bool streaming() const { return head_sent_ && !complete_; }
  // Bytes of echoed prompts in the stream: the client's own, so not counted against it as a slow reader.
  size_t echo_bytes() const { return echo_bytes_; }

  // What is known at the end: status (499 if the answer is not complete; the error's if a stream broke), counts.
  AuditRecord Record() const;

 private:
  void Add(const CallEvent& event, std::string* text, std::string* wire);
  void AddError(const ApiError& error, std::string* text, std::string* wire);

  const RouteMatch match_;
  const std::string method_;
  HttpDelivery delivery_;
  std::shared_ptr<CallMailbox> mailbox_;  // shared with the sink, which the inference may keep longer
  StartedCall call_;
  AuditRecord record_;
  absl::Time received_;
  bool started_ = false;
  bool head_sent_ = false;  // of a stream
  bool truncated_ = false;  // an error came after the head: the body must not end well
  bool complete_ = false;
  size_t echo_bytes_ = 0;
};

}  // namespace braid
