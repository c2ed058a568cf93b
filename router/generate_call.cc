#include "router/generate_call.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "proto/status.h"

namespace braid {
namespace {

// Keeps a joined message far below what a client accepts, even with 20 alternatives per token.
constexpr int kJoinedEntriesMax = 512;

// Appends `event` to `last` if both carry a run of the same kind.
bool Join(v1::GenerateSequenceResponse& last, v1::GenerateSequenceResponse& event) {
  if (last.has_tokens() && event.has_tokens() && last.tokens().tokens_size() < kJoinedEntriesMax) {
    last.mutable_tokens()->mutable_tokens()->MergeFrom(event.tokens().tokens());
    last.mutable_tokens()->mutable_logprobs()->MergeFrom(event.tokens().logprobs());
    return true;
  }
  if (last.has_prompt_logprobs() && event.has_prompt_logprobs() &&
      last.prompt_logprobs().logprobs_size() < kJoinedEntriesMax) {
    last.mutable_prompt_logprobs()->mutable_logprobs()->MergeFrom(event.prompt_logprobs().logprobs());
    return true;
  }
  return false;
}

}  // namespace

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, v1::GenerateSequenceRequest request, SequenceId id,
                           std::optional<Slots::Slot> slot, Inbox* inbox)
    : context_(context), request_(std::move(request)), id_(id), inbox_(inbox), slot_(std::move(slot)) {}

GenerateCall* GenerateCall::Start(grpc::CallbackServerContext* context, v1::GenerateSequenceRequest request,
                                  SequenceId id, Slots::Slot slot, Inbox* inbox) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, std::move(request), id, std::move(slot), inbox));
  call->self_ = call;
  CHECK(inbox->TryPush(CallStarted{call}));
  return call.get();
}

GenerateCall* GenerateCall::Refuse(grpc::CallbackServerContext* context, const absl::Status& status,
                                   absl::Duration retry_after) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, {}, SequenceId(), std::nullopt, nullptr));
  call->self_ = call;
  call->End(status, retry_after);
  return call.get();
}

void GenerateCall::Send(v1::GenerateSequenceResponse event) {
  absl::MutexLock lock(&mutex_);
  if (end_) return;
  if (waiting_.empty() || !Join(waiting_.back(), event)) waiting_.push_back(std::move(event));
  Pump();
}

void GenerateCall::End(const absl::Status& status, absl::Duration retry_after) {
  absl::MutexLock lock(&mutex_);
  if (end_) return;
  end_ = status;
  retry_after_ = retry_after;
  Pump();
}

void GenerateCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) Abandon();
  Pump();
}

void GenerateCall::OnCancel() {
  if (inbox_ != nullptr) CHECK(inbox_->TryPush(CallCancelled{shared_from_this()}));
  absl::MutexLock lock(&mutex_);
  Abandon();
  Pump();
}

void GenerateCall::OnDone() {
  const std::shared_ptr<GenerateCall> self = std::move(self_);  // may be the last to hold this
}

void GenerateCall::Abandon() {
  waiting_.clear();
  if (!end_) end_ = absl::CancelledError("the call was cancelled");
}

void GenerateCall::Pump() {
  if (writing_ || finished_) return;
  if (!waiting_.empty()) {
    current_ = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    StartWrite(&current_);
  } else if (end_) {
    if (retry_after_ > absl::ZeroDuration()) {
      context_->AddTrailingMetadata("retry-after-ms", std::to_string(absl::ToInt64Milliseconds(retry_after_)));
    }
    finished_ = true;
    Finish(ToGrpc(*end_));
  }
}

}  // namespace braid
