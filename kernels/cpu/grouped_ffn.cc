#include "kernels/grouped_ffn.h"

#include <algorithm>

#include "kernels/linear.h"
#include "kernels/pointwise.h"

namespace braid {
namespace {

// Of each of the two scratch buffers: 16 MB.
constexpr int kScratchFloats = 4 << 20;

// Rows [begin, end), wherever the groups begin and end.
void RunRows(const GroupedFfn& op, int begin, int end, GroupedFfnScratch& scratch, ThreadPool& pool) {
  const size_t floats = static_cast<size_t>(end - begin) * op.F;
  if (scratch.gate.size() < floats) {
    scratch.gate.resize(floats);
    scratch.up.resize(floats);
  }
  std::vector<Linear> in, out;
  for (const FfnGroup& group : op.groups) {
    const int from = std::max(begin, group.begin), rows = std::min(end, group.end) - from;
    if (rows <= 0) continue;
    const int64_t at = int64_t{from - begin} * op.F, at_x = int64_t{from} * op.D;
    in.push_back({rows, group.gate, op.x + at_x, scratch.gate.data() + at});
    in.push_back({rows, group.up, op.x + at_x, scratch.up.data() + at});
    out.push_back({rows, group.down, scratch.gate.data() + at, op.y + at_x});
  }
  RunAll(in, pool);
  Run(SwiGlu{static_cast<int64_t>(floats), scratch.gate.data(), scratch.up.data(), scratch.gate.data()}, pool);
  RunAll(out, pool);
}

}  // namespace

void Run(const GroupedFfn& op, GroupedFfnScratch& scratch, ThreadPool& pool) {
  const int rows = std::max(1, kScratchFloats / op.F);
  for (int begin = 0; begin < op.R; begin += rows) RunRows(op, begin, std::min(op.R, begin + rows), scratch, pool);
}

}  // namespace braid
