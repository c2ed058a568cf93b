#include "gateway/grpc/stream.h"

#include <fmt/format.h>

#include "absl/time/clock.h"

namespace braid {
CallRecord::CallRecord(Audit* audit, std::string route, std::string request_id, std::string model_digest)
    : audit_(audit) {
  record_.received = absl::Now();
  record_.door = "grpc";
  record_.route = std::move(route);
  record_.request_id = std::move(request_id);
  record_.model_digest = std::move(model_digest);
}

void CallRecord::Note(const CallEvent& event) {
  if (const auto* finished = std::get_if<Finished>(&event)) {
    const size_t choice = static_cast<size_t>(finished->choice);
    if (record_.finish_reasons.size() <= choice) record_.finish_reasons.resize(choice + 1);
    record_.finish_reasons[choice] = FinishReasonName(finished->reason);
  }
  if (const auto* done = std::get_if<Done>(&event)) {
    record_.prompt_tokens = done->prompt_tokens;
    record_.completion_tokens = done->completion_tokens;
    record_.reasoning_tokens = done->reasoning_tokens;
    record_.has_seed = true;
    record_.seed = done->seed;
  }
}

void CallRecord::Write(const std::optional<ApiError>& error) {
  if (audit_ == nullptr) return;
  record_.latency = absl::Now() - record_.received;
  record_.status = error ? HttpStatus(*error) : 200;
  if (error) record_.error_code = error->code;
  audit_->Record(record_);
}

grpc::Status ToGrpcStatus(const ApiError& error) {
  return grpc::Status(static_cast<grpc::StatusCode>(error.status), error.message);
}

void AddErrorTrailers(const ApiError& error, grpc::CallbackServerContext* context) {
  context->AddTrailingMetadata("braid-error-code", error.code);
  if (!error.param.empty()) context->AddTrailingMetadata("braid-error-param", error.param);
  if (error.retry_after)
    context->AddTrailingMetadata("retry-after-ms", fmt::format("{}", absl::ToInt64Milliseconds(*error.retry_after)));
}

}  // namespace braid
