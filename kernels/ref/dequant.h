#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace braid {

// The `n` values stored at `src` as float32: exact for the float types, one rounding for the block types, whose scales
// times quants are exact products. `src` may be unaligned. REQUIRES: n is a multiple of the type's block.
// Source: the block layouts of ggml-common.h.
void Dequantize(DType type, const void* src, int64_t n, float* dst);

}  // namespace braid
