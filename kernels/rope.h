#pragma once

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// Rotary angles of a step, the same for all layers: cos and sin of position / theta^(2i / head_dim). The frequency and
// the angle are rounded to float32 before the cosine is taken, because that is what the model was trained with
// (transformers); at position 100,000 a more exact angle would differ by some 1e-3.
struct RopeTable {
  int T = 0, head_dim = 0;
  float theta = 0;
  const int32_t* positions = nullptr;  // (T)
  float* cos = nullptr;                // (T, head_dim / 2)
  float* sin = nullptr;
};
absl::Status Check(const RopeTable& op);
void Run(const RopeTable& op, ThreadPool& pool);

// In place, per head: RMSNorm, then the rotation of the pairs (i, i + head_dim / 2).
struct HeadNormRope {
  int T = 0, heads = 0, head_dim = 0;
  const float* weight = nullptr;  // (head_dim)
  float eps = 0;
  const float* cos = nullptr;  // (T, head_dim / 2)
  const float* sin = nullptr;
  float* x = nullptr;  // (T, heads, head_dim)
};
absl::Status Check(const HeadNormRope& op);
void Run(const HeadNormRope& op, ThreadPool& pool);

namespace ref {
void Run(const HeadNormRope& op);
}

}  // namespace braid
