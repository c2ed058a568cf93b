#include "kernels/gather.h"

#include "kernels/panels.h"
#include "kernels/ref/dequant.h"

namespace braid {

void Run(const Gather& op, ThreadPool& pool) {
  const int64_t D = op.table.columns;
  pool.ParallelFor(op.T, 16, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      if (op.table.layout == Layout::kPanels) {
        DequantizePackedRow(op.table, op.ids[t], op.y + t * D);
      } else {
        Dequantize(op.table.type, op.table.row(op.ids[t]), D, op.y + t * D);
      }
    }
  });
}

}  // namespace braid
