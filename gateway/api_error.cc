#include "gateway/api_error.h"

namespace braid {
namespace {

// Refusals that HTTP names more exactly than absl::StatusCode can.
int StatusOfCode(const std::string& code) {
  if (code == "method_not_allowed") return 405;
  if (code == "body_too_large") return 413;
  if (code == "unsupported_media_type") return 415;
  return 0;
}

}  // namespace

int HttpStatus(const ApiError& error) {
  if (const int status = StatusOfCode(error.code)) return status;
  switch (error.status) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
      return 400;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorType(const ApiError& error) {
  switch (HttpStatus(error)) {
    case 429:
      return "rate_limit_error";
    case 500:
    case 503:
      return "server_error";
    case 504:
      return "timeout_error";
    default:
      return "invalid_request_error";
  }
}

}  // namespace braid
