#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/core/call_fold.h"
#include "gateway/inference.h"
#include "gateway/probe.h"
#include "gateway/router_client.h"

namespace braid {

// A call between Start and its end. Its sequences report on many threads; here they are put into one line: whoever
// finds the line empty works it off, the others only add to it. No lock is held while the sink runs, so the sink may
// destroy the call; a Close() from another thread waits for the sink to return, and after that nothing is delivered.
class RunningCall final : public SequenceListener, public std::enable_shared_from_this<RunningCall> {
 public:
  // Called once, when the call has ended: kOk, kCancelled if its caller gave it up, or the error's status.
  using OnEnd = std::function<void(absl::StatusCode outcome)>;

  // `probe` must outlive the call.
  RunningCall(std::string request_id, absl::Time arrival, CallFold fold, Inference::Sink sink, GatewayProbe* probe,
              OnEnd on_end);

  // Submits every sequence. Once, by the creator.
  void Start(RouterClient* router, absl::Time deadline);
  // Cancels what is left. No event is delivered afterwards.
  void Close();

  void OnUpdate(int choice, SequenceUpdate update) override;
  void OnFailed(int choice, const absl::Status& status, std::optional<absl::Duration> retry_after) override;
  void OnResubmitted() override { probe_->SequenceResubmitted(); }

 private:
  struct Input {
    int choice = 0;
    std::variant<SequenceUpdate, ApiError> what;
  };
  void Post(Input input);
  void WorkOff();
  std::optional<Input> TakeInput();
  void Apply(const Input& input);
  // False once the call is closed.
  bool Deliver(CallEvent event);
  void Measure(const CallEvent& event);
  void MeasureDelta(const Delta& delta);
  void End(absl::StatusCode outcome);
  void DropSequence(int choice);
  void DropAllSequences();

  const std::string request_id_;
  const absl::Time arrival_;
  const Inference::Sink sink_;
  GatewayProbe* const probe_;
  const OnEnd on_end_;

  // Touched only by the thread that works off the line.
  CallFold fold_;
  std::vector<std::optional<absl::Time>> last_delta_;  // by choice
  bool any_token_ = false;

  absl::Mutex mutex_;
  std::deque<Input> line_ ABSL_GUARDED_BY(mutex_);
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread::id in_sink_ ABSL_GUARDED_BY(mutex_);  // the thread inside the sink; none: default value
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t generated_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool needless_ ABSL_GUARDED_BY(mutex_) = false;  // no sequence is wanted any more
  std::vector<std::unique_ptr<RouterClient::Sequence>> sequences_ ABSL_GUARDED_BY(mutex_);  // by choice
};

}  // namespace braid
