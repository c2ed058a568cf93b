#include "kernels/grouped_ffn.h"

#include <algorithm>

#include "kernels/cpu/level.h"
#include "kernels/linear.h"
#include "kernels/panels.h"
#include "kernels/pointwise.h"

// Where all matrices are panels, a group is two phases with a barrier between them: 32 hidden units of all rows at a
// time (gate, up, SiLU, quantised: one QuantBlock per row), then 32 outputs at a time. The hidden units never exist as
// floats in memory. Any other mix of layouts goes through the single ops.

namespace braid {
namespace {

constexpr int kScratchFloats = 4 << 20;  // of each float scratch buffer: 16 MB
constexpr int kBlockRows = 128;          // as in linear.cc

template <typename T>
T* Grow(std::vector<T>& buffer, size_t size) {
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

int SourceOf(const GroupedFfn& op, int row) { return op.source == nullptr ? row : op.source[row]; }

bool InPanels(const GroupedFfn& op) {
  return std::ranges::all_of(op.groups, [](const FfnGroup& group) {
    return group.gate.layout == Layout::kPanels && group.up.layout == Layout::kPanels &&
           group.down.layout == Layout::kPanels;
  });
}

const std::byte* Panel(const Matrix& m, int panel) {
  return m.data + static_cast<size_t>(panel) * PanelBytes(m.type, static_cast<uint64_t>(m.columns));
}

// Larger groups come first, so that the last claims are small ones.
class PanelFfn {
 public:
  PanelFfn(const GroupedFfn& op, GroupedFfnScratch& scratch, ThreadPool& pool)
      : op_(op),
        pool_(pool),
        level_(ActiveCpuLevel()),
        blocks_in_(op.D / 32),
        blocks_hidden_(op.F / 32),
        order_(scratch.order) {
    hidden_ = Grow(scratch.hidden, static_cast<size_t>(op.R) * blocks_hidden_);
    order_.clear();
    for (const FfnGroup& group : op.groups) order_.push_back(&group);
    std::ranges::sort(order_, [](const FfnGroup* a, const FfnGroup* b) {
      const int rows_a = a->end - a->begin, rows_b = b->end - b->begin;
      return rows_a != rows_b ? rows_a > rows_b : a < b;
    });
  }

  void Run() {
    ForPanels(blocks_hidden_, [this](const FfnGroup& group, int begin, int end) { In(group, begin, end); });
    ForPanels((op_.D + kPanelOutputs - 1) / kPanelOutputs,
              [this](const FfnGroup& group, int begin, int end) { Out(group, begin, end); });
  }

 private:
  template <typename F>
  void ForPanels(int panels, const F& run) {
    // A panel is read in a microsecond or two; with many rows it takes longer.
    const int grain = std::clamp(8 * static_cast<int>(order_.size()) / op_.R, 1, 4);
    pool_.ParallelFor(static_cast<int>(order_.size()) * panels, grain, [&](int begin, int end) {
      while (begin < end) {
        const int group = begin / panels, here = std::min(end, (group + 1) * panels);
        run(*order_[group], begin - group * panels, here - group * panels);
        begin = here;
      }
    });
  }

  void In(const FfnGroup& group, int begin, int end) {
    const QuantBlock* rows[kBlockRows];
    alignas(64) float gate[kBlockRows * kPanelOutputs];
    alignas(64) float up[kBlockRows * kPanelOutputs];
    for (int row = group.begin; row < group.end; row += kBlockRows) {
      const int count = std::min(kBlockRows, group.end - row);
      for (int r = 0; r < count; ++r) rows[r] = op_.q + int64_t{SourceOf(op_, row + r)} * blocks_in_;
      for (int panel = begin; panel < end; ++panel) {
        level_.panel({group.gate.type, blocks_in_, Panel(group.gate, panel), count, rows, gate, kPanelOutputs});
        level_.panel({group.up.type, blocks_in_, Panel(group.up, panel), count, rows, up, kPanelOutputs});
        level_.swiglu_quantize(gate, up, count, hidden_ + int64_t{row} * blocks_hidden_ + panel, blocks_hidden_);
      }
    }
  }

  void Out(const FfnGroup& group, int begin, int end) {
    const QuantBlock* rows[kBlockRows];
    alignas(64) float last[kBlockRows * kPanelOutputs];
    for (int row = group.begin; row < group.end; row += kBlockRows) {
      const int count = std::min(kBlockRows, group.end - row);
      for (int r = 0; r < count; ++r) rows[r] = hidden_ + int64_t{row + r} * blocks_hidden_;
      for (int panel = begin; panel < end; ++panel) {
        const int output = panel * kPanelOutputs, outputs = std::min(kPanelOutputs, op_.D - output);
        float* y = op_.y + int64_t{row} * op_.D + output;
        PanelTask task{group.down.type, blocks_hidden_, Panel(group.down, panel), count, rows, y, op_.D};
        if (outputs < kPanelOutputs) task.y = last, task.y_stride = kPanelOutputs;
        level_.panel(task);
        if (outputs < kPanelOutputs)
          for (int r = 0; r < count; ++r) std::copy_n(last + r * kPanelOutputs, outputs, y + int64_t{r} * op_.D);
      }
    }
  }

  const GroupedFfn& op_;
  ThreadPool& pool_;
  const CpuLevel& level_;
  const int blocks_in_, blocks_hidden_;
  QuantBlock* hidden_;
  std::vector<const FfnGroup*>& order_;
};

// Rows [begin, end), wherever the groups begin and end.
void RunRows(const GroupedFfn& op, int begin, int end, GroupedFfnScratch& scratch, ThreadPool& pool) {
  const int count = end - begin;
  const int64_t blocks_in = op.D / 32, blocks_hidden = op.F / 32;
  const size_t floats = static_cast<size_t>(count) * op.F;
  float *gate = Grow(scratch.gate, floats), *up = Grow(scratch.up, floats);
  float* x = op.x == nullptr ? nullptr : Grow(scratch.x, static_cast<size_t>(count) * op.D);
  QuantBlock* q = op.q == nullptr ? nullptr : Grow(scratch.q, static_cast<size_t>(count) * blocks_in);
  QuantBlock* hidden = Grow(scratch.hidden, static_cast<size_t>(count) * blocks_hidden);
  for (int r = 0; r < count; ++r) {
    const int64_t source = SourceOf(op, begin + r);
    if (x != nullptr) std::copy_n(op.x + source * op.D, op.D, x + int64_t{r} * op.D);
    if (q != nullptr) std::copy_n(op.q + source * blocks_in, blocks_in, q + r * blocks_in);
  }
  std::vector<Linear>&in = scratch.in, &out = scratch.out;
  in.clear(), out.clear();
  for (const FfnGroup& group : op.groups) {
    const int from = std::max(begin, group.begin), rows = std::min(end, group.end) - from;
    if (rows <= 0) continue;
    const int64_t first = from - begin, at = first * op.F, at_x = first * op.D;
    const float* group_x = x == nullptr ? nullptr : x + at_x;
    const QuantBlock* group_q = q == nullptr ? nullptr : q + first * blocks_in;
    in.push_back({rows, group.gate, group_x, gate + at, group_q});
    in.push_back({rows, group.up, group_x, up + at, group_q});
    out.push_back({rows, group.down, gate + at, op.y + int64_t{from} * op.D, hidden + first * blocks_hidden});
  }
  RunAll(in, pool);
  Run(SwiGlu{static_cast<int64_t>(floats), gate, up, gate}, pool);
  if (op.F % 32 == 0) Run(QuantizeRows{count, op.F, gate, hidden}, pool);
  RunAll(out, pool);
}

}  // namespace

void Run(const GroupedFfn& op, GroupedFfnScratch& scratch, ThreadPool& pool) {
  if (op.R == 0) return;
  if (InPanels(op)) return PanelFfn(op, scratch, pool).Run();
  const int rows = std::max(1, kScratchFloats / op.F);
  for (int begin = 0; begin < op.R; begin += rows) RunRows(op, begin, std::min(op.R, begin + rows), scratch, pool);
}

}  // namespace braid
