#include "kernels/linear.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/level.h"

namespace braid {
namespace {

// Multiply-adds worth a claim of the thread pool: some 10 us.
constexpr int64_t kTaskWork = 128 * 1024;
// Tasks are multiples of it, so that no tile of linear-inl.h is cut.
constexpr int kTaskOutputs = 12;

int OutputsPerTask(const Linear& op) {
  const int64_t work = int64_t{op.T} * op.w.columns * kTaskOutputs;
  return kTaskOutputs * static_cast<int>(std::clamp<int64_t>(kTaskWork / std::max<int64_t>(work, 1), 1, 1024));
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

void RunAll(std::span<const Linear> ops, ThreadPool& pool) {
  struct Job {
    LinearTask task;
    int first = 0;  // index of its first task
    int outputs_per_task = 0;
    std::vector<float> padded;
  };
  std::vector<Job> jobs;
  jobs.reserve(ops.size());
  int tasks = 0;
  for (const Linear& op : ops) {
    if (op.T == 0) continue;
    Job& job = jobs.emplace_back();
    job.task = Pad(op, job.padded);
    job.first = tasks;
    job.outputs_per_task = OutputsPerTask(op);
    tasks += (op.w.rows + job.outputs_per_task - 1) / job.outputs_per_task;
  }
  const CpuLevel& level = ActiveCpuLevel();
  pool.ParallelFor(tasks, 1, [&](int begin, int end) {
    for (auto job = std::ranges::upper_bound(jobs, begin, {}, &Job::first) - 1; begin < end; ++job) {
      const int here = job + 1 == jobs.end() ? end : std::min(end, (job + 1)->first);
      const int rows = job->task.op.w.rows;
      level.linear(job->task, (begin - job->first) * job->outputs_per_task,
                   std::min(rows, (here - job->first) * job->outputs_per_task));
      begin = here;
    }
  });
}

void Run(const Linear& op, ThreadPool& pool) { RunAll({&op, 1}, pool); }

}  // namespace braid
