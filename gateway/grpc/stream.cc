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
