#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace braid {

// The first line of `path`, without spaces around it: a key that callers send as Bearer token. An empty path is an
// empty key. kNotFound or kInvalidArgument naming --api-key-file.
absl::StatusOr<std::string> ReadApiKey(const std::string& path);

}  // namespace braid
