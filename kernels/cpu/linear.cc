#include "kernels/linear.h"

#include <algorithm>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "kernels/cpu/level.h"

namespace braid {
namespace {

// Work worth a claim of the thread pool, some 5 us: multiply-adds of float32 and of int8.
constexpr int64_t kFloatWork = 128 * 1024;
constexpr int64_t kInt8Work = 2 * 1024 * 1024;

// Outputs that belong together: a tile of linear-inl.h, a panel.
int OutputsOfTile(const Linear& op) { return op.w.layout == Layout::kPanels ? kPanelOutputs : 12; }

int OutputsPerTask(const Linear& op) {
  const int tile = OutputsOfTile(op);
  // A panel that meets few rows is as long as it takes to read it.
  const int64_t rows = op.w.layout == Layout::kPanels ? std::max(op.T, 8) : op.T;
  const int64_t work = op.w.layout == Layout::kPanels ? kInt8Work : kFloatWork;
  return tile * static_cast<int>(std::clamp<int64_t>(work / (rows * op.w.columns * tile), 1, 1024));
}

// The rows of x, each padded with zeros to a multiple of eight columns. Real models never need it.
LinearTask Pad(const Linear& op, std::vector<float>& storage) {
  const int ldx = (op.w.columns + 7) / 8 * 8;
  if (ldx == op.w.columns) return {op, op.x, ldx};
  storage.assign(static_cast<size_t>(op.T) * ldx, 0.0f);
  for (int t = 0; t < op.T; ++t)
    std::copy_n(op.x + int64_t{t} * op.w.columns, op.w.columns, storage.data() + int64_t{t} * ldx);
  return {op, storage.data(), ldx};
}

}  // namespace

// Rows of x that a panel meets before the next panel does: they stay in the second cache level (K = 2048: 400 KB).
constexpr int kBlockRows = 128;

// Panels [begin, end) of all rows.
void RunPanels(const Linear& op, int begin, int end, const CpuLevel& level) {
  const int64_t N = op.w.rows, blocks = op.w.columns / kPanelColumns;
  const uint64_t panel_bytes = PanelBytes(op.w.type, static_cast<uint64_t>(op.w.columns));
  const QuantBlock* rows[kBlockRows];
  alignas(64) float last[kBlockRows * kPanelOutputs];
  for (int row = 0; row < op.T; row += kBlockRows) {
    const int count = std::min(kBlockRows, op.T - row);
    for (int r = 0; r < count; ++r) rows[r] = op.q + (row + r) * blocks;
    for (int panel = begin; panel < end; ++panel) {
      const int output = panel * kPanelOutputs, outputs = std::min(kPanelOutputs, op.w.rows - output);
      float* y = op.y + row * N + output;
      PanelTask task{op.w.type, static_cast<int>(blocks), op.w.data + panel * panel_bytes, count, rows, y, N};
      if (outputs == kPanelOutputs) {
        level.panel(task);
        continue;
      }
      task.y = last, task.y_stride = kPanelOutputs;
      level.panel(task);
      for (int r = 0; r < count; ++r) std::copy_n(last + r * kPanelOutputs, outputs, y + r * N);
    }
  }
}

void RunAll(std::span<const Linear> ops, ThreadPool& pool) {
  struct Job {
    LinearTask task;
    int first = 0;  // index of its first task
    int outputs_per_task = 0;
    std::vector<float> padded;
  };
  absl::InlinedVector<Job, 64> jobs;  // the experts of a layer, without an allocation
  int tasks = 0;
  for (const Linear& op : ops) {
    if (op.T == 0) continue;
    Job& job = jobs.emplace_back();
    job.task = op.w.layout == Layout::kPanels ? LinearTask{op} : Pad(op, job.padded);
    job.first = tasks;
    job.outputs_per_task = OutputsPerTask(op);
    tasks += (op.w.rows + job.outputs_per_task - 1) / job.outputs_per_task;
  }
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(tasks, 1, [&](int begin, int end) {
    for (auto job = std::ranges::upper_bound(jobs, begin, {}, &Job::first) - 1; begin < end; ++job) {
      const int here = job + 1 == jobs.end() ? end : std::min(end, (job + 1)->first);
      const int rows = job->task.op.w.rows;
      const int first = (begin - job->first) * job->outputs_per_task;
      const int last = std::min(rows, (here - job->first) * job->outputs_per_task);
      if (job->task.op.w.layout == Layout::kPanels) {
        RunPanels(job->task.op, first / kPanelOutputs, (last + kPanelOutputs - 1) / kPanelOutputs, level);
      } else {
        level.linear(job->task, first, last);
      }
      begin = here;
    }
  });
}

void Run(const Linear& op, ThreadPool& pool) { RunAll({&op, 1}, pool); }

}  // namespace braid
