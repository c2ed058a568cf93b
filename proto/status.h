#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

// The one place where absl::Status becomes grpc::Status and back. The codes have the same numbers.

namespace braid {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace braid
