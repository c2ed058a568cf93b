#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "expert_worker/backend.h"

namespace braid {

// The processor of this machine, and memory of this process.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendParts& parts);

}  // namespace braid
