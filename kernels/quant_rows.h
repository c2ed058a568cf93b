#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// Thirty-two consecutive activations of a row as int8: x ~ q * scale, scale = max |x| / 127, q rounded to nearest, ties
// to even. A block depends on its own 32 values alone. Any value that is not finite makes the scale NaN or infinite,
// and so whatever is computed from the block.
struct QuantBlock {
  int8_t q[32];
  float scale;
  // kMagicBits - 8 * the sum of all q: where the integer sum of a block of four-bit weights starts, see panels-inl.h.
  int32_t start;
  int32_t minus_half_sum[2];  // of q[0..15], of q[16..31]

  static constexpr int32_t kMagicBits = 0x4B400000;  // of the float 1.5 * 2^23
  int32_t minus_sum() const { return minus_half_sum[0] + minus_half_sum[1]; }
};
static_assert(sizeof(QuantBlock) == 48);

// REQUIRES: K is a multiple of 32.
struct QuantizeRows {
  int T = 0, K = 0;
  const float* x = nullptr;  // (T, K)
  QuantBlock* q = nullptr;   // (T, K / 32)
};
absl::Status Check(const QuantizeRows& op);
void Run(const QuantizeRows& op, ThreadPool& pool);
// One row.
void QuantizeRow(const float* x, int K, QuantBlock* q);

namespace ref {
void Run(const QuantizeRows& op);
}

}  // namespace braid
