#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"
#include "model/conversion_plan.h"
#include "model/output_file.h"

namespace braid {

// Appends a tensor's data to `file`, converted a few megabytes at a time on the threads of `pool`. `progress` is told
// the bytes of each piece written. Errors name the source tensor.
absl::Status WriteTensorData(const PlannedTensor& tensor, ThreadPool* pool, OutputFile* file,
                             const std::function<void(uint64_t bytes)>& progress);

}  // namespace braid
