#include "expert_worker/worker_options.h"

#include <sched.h>

#include <algorithm>

#include "model/config.h"
#include "model/sequence_states.h"

namespace braid {
namespace {

constexpr uint64_t kSnapshotBytesDefault = 64 << 20;
constexpr uint64_t kSnapshotsDefaultMax = 4096;  // where they are small

int CoresOfThisProcess() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

}  // namespace

int ComputeThreads(const WorkerOptions& options) {
  return options.threads > 0 ? options.threads : CoresOfThisProcess();
}

int ExpertSlots(const WorkerOptions& options, const ModelConfig& config) {
  const int all = config.moe_layer_count() * config.experts;
  return options.expert_slots > 0 ? std::min(options.expert_slots, all) : all;
}

int SnapshotsMax(const WorkerOptions& options, const ModelConfig& config) {
  if (options.snapshots_max >= 0) return options.snapshots_max;
  const uint64_t bytes = std::max<uint64_t>(ConvCopyBytes(config), 1);
  return static_cast<int>(std::min(kSnapshotBytesDefault / bytes, kSnapshotsDefaultMax));
}

}  // namespace braid
