#include "gateway/running_call.h"

#include <fmt/format.h>

#include <utility>

#include "absl/time/clock.h"
#include "base/logging.h"

namespace braid {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// What the caller may know of a failure behind the gateway: never the names or addresses in the router's message,
// except where the router speaks of the request itself.
ApiError ToApiError(const absl::Status& status, std::optional<absl::Duration> retry_after) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return {status.code(), "rate_limit_exceeded", "", "all capacity is taken; try again in a moment",
              retry_after.value_or(kRetryAfter)};
    case absl::StatusCode::kUnavailable:
      return {status.code(), "service_unavailable", "", "the model cannot take requests now; try again in a moment",
              retry_after.value_or(kRetryAfter)};
    case absl::StatusCode::kInvalidArgument:
      return {status.code(), "invalid_value", "", std::string(status.message()), std::nullopt};
    case absl::StatusCode::kAborted:
      return {status.code(), "request_quarantined", "", std::string(status.message()), std::nullopt};
    case absl::StatusCode::kDeadlineExceeded:
      return {status.code(), "timeout", "", "the request took longer than this server allows", std::nullopt};
    default:
      return {absl::StatusCode::kInternal, "internal_error", "", "the request failed inside the server", std::nullopt};
  }
}

// The router takes ids of at most 128 bytes.
std::string SequenceName(const std::string& request_id, int choice, int count) {
  constexpr size_t kIdBytesMax = 110;
  const std::string id = ToValidUtf8(request_id.substr(0, kIdBytesMax));
  return count == 1 ? id : fmt::format("{}/{}", id, choice);
}

}  // namespace

RunningCall::RunningCall(std::string request_id, absl::Time arrival, CallFold fold, Inference::Sink sink,
                         GatewayProbe* probe, OnEnd on_end)
    : request_id_(std::move(request_id)),
      arrival_(arrival),
      sink_(std::move(sink)),
      probe_(probe),
      on_end_(std::move(on_end)),
      fold_(std::move(fold)),
      last_delta_(static_cast<size_t>(fold_.sequences())),
      sequences_(static_cast<size_t>(fold_.sequences())) {}

// Reports may come while this still runs: of the fold only what never changes is read here.
void RunningCall::Start(RouterClient* router, absl::Time deadline) {
  const int count = fold_.sequences();
  for (int i = 0; i < count; ++i) {
    std::unique_ptr<RouterClient::Sequence> sequence =
        router->Generate(fold_.Request(i, SequenceName(request_id_, i, count)), deadline, weak_from_this(), i);
    absl::MutexLock lock(&mutex_);
    if (needless_) break;  // failed already; `sequence` is cancelled as it goes out of scope, after the lock
    sequences_[static_cast<size_t>(i)] = std::move(sequence);
  }
}

void RunningCall::Close() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    line_.clear();
    if (in_sink_ != std::this_thread::get_id()) {
      const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_sink_ == std::thread::id(); };
      mutex_.Await(absl::Condition(&idle));
    }
  }
  DropAllSequences();
  End(absl::StatusCode::kCancelled);
}

void RunningCall::OnUpdate(int choice, SequenceUpdate update) { Post({choice, std::move(update)}); }

void RunningCall::OnFailed(int choice, const absl::Status& status, std::optional<absl::Duration> retry_after) {
  ApiError error = ToApiError(status, retry_after);
  if (error.status == absl::StatusCode::kInternal)
    spdlog::warn("request {}: the router failed it: {}", request_id_, status.ToString());
  Post({choice, std::move(error)});
}

void RunningCall::Post(Input input) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    line_.push_back(std::move(input));
    if (std::exchange(working_, true)) return;
  }
  WorkOff();
}

void RunningCall::WorkOff() {
  const auto self = shared_from_this();  // the sink may destroy the call
  while (const std::optional<Input> input = TakeInput()) {
    Apply(*input);
    for (int choice : fold_.TakeNeedless()) DropSequence(choice);
    if (fold_.ended()) DropAllSequences();
    for (CallEvent& event : fold_.TakeEvents())
      if (!Deliver(std::move(event))) break;
  }
}

std::optional<RunningCall::Input> RunningCall::TakeInput() {
  absl::MutexLock lock(&mutex_);
  if (closed_ || line_.empty()) {
    working_ = false;
    return std::nullopt;
  }
  std::optional<Input> input(std::move(line_.front()));
  line_.pop_front();
  return input;
}

void RunningCall::Apply(const Input& input) {
  if (const auto* update = std::get_if<SequenceUpdate>(&input.what)) fold_.OnUpdate(input.choice, *update);
  if (const auto* error = std::get_if<ApiError>(&input.what)) fold_.OnFailed(*error);
}

bool RunningCall::Deliver(CallEvent event) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    in_sink_ = std::this_thread::get_id();
  }
  Measure(event);
  sink_(std::move(event));
  absl::MutexLock lock(&mutex_);
  in_sink_ = std::thread::id();
  return true;
}

// Before the sink hears of it: whoever acts on the last event finds the call counted and its place free.
void RunningCall::Measure(const CallEvent& event) {
  if (std::holds_alternative<Accepted>(event)) {
    probe_->CallAccepted(fold_.prompt_tokens());
    absl::MutexLock lock(&mutex_);
    accepted_ = true;
  }
  if (const auto* delta = std::get_if<Delta>(&event)) MeasureDelta(*delta);
  if (std::holds_alternative<Done>(event)) End(absl::StatusCode::kOk);
  if (const auto* error = std::get_if<ApiError>(&event)) End(error->status);
}

void RunningCall::MeasureDelta(const Delta& delta) {
  const int64_t tokens = static_cast<int64_t>(delta.tokens.size());
  if (tokens == 0) return;
  const absl::Time now = absl::Now();
  probe_->TokensDelivered(tokens, now);
  if (!std::exchange(any_token_, true)) probe_->FirstToken(now - arrival_);
  std::optional<absl::Time>& last = last_delta_[static_cast<size_t>(delta.choice)];
  if (last) probe_->NextTokens(tokens, now - *last);
  last = now;
  absl::MutexLock lock(&mutex_);
  generated_tokens_ += tokens;
}

void RunningCall::End(absl::StatusCode outcome) {
  int64_t generated_tokens = 0;
  bool accepted = false;
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(ended_, true)) return;
    generated_tokens = generated_tokens_;
    accepted = accepted_;
  }
  probe_->CallEnded(absl::Now() - arrival_, generated_tokens, accepted);
  on_end_(outcome);
}

void RunningCall::DropSequence(int choice) {
  std::unique_ptr<RouterClient::Sequence> sequence;  // cancelled outside the lock
  absl::MutexLock lock(&mutex_);
  sequence = std::move(sequences_[static_cast<size_t>(choice)]);
}

void RunningCall::DropAllSequences() {
  std::vector<std::unique_ptr<RouterClient::Sequence>> sequences;
  absl::MutexLock lock(&mutex_);
  needless_ = true;
  sequences = std::exchange(sequences_, std::vector<std::unique_ptr<RouterClient::Sequence>>(sequences_.size()));
}

}  // namespace braid
