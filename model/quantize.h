#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/dtype.h"

namespace braid {

// The types Quantize writes: F32, F16, BF16, Q8_0, Q4_0.
bool CanQuantize(DType type);

// `n` values as `type` at `dst`, RowBytes(type, n) bytes. Rounds to nearest even for the float types and as ggml's
// reference does for the block types, bit for bit (oracle: the gguf package's quants). kInvalidArgument for a value
// that the type cannot hold: not finite in a block type, finite but beyond F16's range. REQUIRES: CanQuantize(type), n
// is a multiple of the type's block.
absl::Status Quantize(DType type, const float* src, int64_t n, std::byte* dst);

}  // namespace braid
