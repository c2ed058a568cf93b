#pragma once

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"

namespace braid {

// y[t] = table[ids[t]]: embeddings, or the rows of an activation that somebody asked for.
struct Gather {
  int T = 0;
  Matrix table;                  // (V, D)
  const int32_t* ids = nullptr;  // (T), each in [0, V)
  float* y = nullptr;            // (T, D)
};
absl::Status Check(const Gather& op);
void Run(const Gather& op, ThreadPool& pool);

}  // namespace braid
