#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// Orders the pairs (token, choice) of a step by expert, in the order of the tokens within one: what a grouped product
// reads. On the device from end to end, so that a step needs no word from the host between router and experts.
struct GroupRows {
  int T = 0, K = 0, E = 0;
  const int32_t* experts = nullptr;  // (T, K); below 0: somewhere else, or the row pads the step
  int32_t* offsets = nullptr;        // (E + 1) out: expert e has the rows [offsets[e], offsets[e + 1])
  int32_t* source = nullptr;         // (T * K) out: the token of a row; rows behind offsets[E] are not written
  int32_t* row_of = nullptr;         // (T, K) out: the row of a pair, -1 for one without
  uint64_t* counted = nullptr;       // (E), its rows are added to; or nullptr

  static constexpr int kExpertsMax = 1024;
};
absl::Status Check(const GroupRows& op);

struct GroupRowsConfig {
  int warps = 0;  // of the one block: 1, 4, 8 or 32. REQUIRES: warps * E <= kCountsMax
  static constexpr int kCountsMax = 8192;
};
GroupRowsConfig Choose(const GroupRows& op);
cudaError_t Run(const GroupRows& op, const GroupRowsConfig& config, cudaStream_t stream);

}  // namespace braid::gpu
