#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace braid {

// What a caller is told when a request is refused or breaks, the same behind both doors. Never holds paths, addresses
// or names of internal things.
struct ApiError {
  absl::StatusCode status = absl::StatusCode::kInvalidArgument;
  std::string
      code;  // stable, machine-readable: invalid_value, unknown_field, context_length_exceeded, model_not_found...
  std::string param;    // the field in JSON spelling, e.g. "messages[2].content"; may be empty
  std::string message;  // for people: what is wrong and what would be right
  std::optional<absl::Duration> retry_after;
};

// 400, 401, 404, 405, 413, 415, 429, 499, 500, 503 or 504.
int HttpStatus(const ApiError& error);
// OpenAI's "type": invalid_request_error, rate_limit_error, server_error, ...
std::string ErrorType(const ApiError& error);

}  // namespace braid
