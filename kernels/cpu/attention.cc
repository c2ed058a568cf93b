#include "kernels/attention.h"

#include <algorithm>

#include "kernels/cpu/level.h"

namespace braid {

void Run(const KvStore& op, ThreadPool& pool) {
  const int64_t dim = op.arena.kv_dim;
  pool.ParallelFor(op.T, 64, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const KvRow& row = op.rows[t];
      std::copy_n(op.k + t * dim, dim, op.arena.key(row, row.position));
      std::copy_n(op.v + t * dim, dim, op.arena.value(row, row.position));
    }
  });
}

void Run(const Attention& op, ThreadPool& pool) {
  // Key heads outside, rows inside: neighbouring rows read the same keys.
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(op.T * op.kv_heads, 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) level.attend(op, i % op.T, i / op.T);
  });
}

}  // namespace braid
