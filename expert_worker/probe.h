#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "braid/v1/worker.pb.h"
#include "monitoring/metrics.h"

namespace braid {

// Everything a worker counts. Used by the step thread, except the handles themselves, which are thread-safe.
class WorkerProbe {
 public:
  // `experts` of the model; with `expert_metrics` each has a series. `metrics` must outlive *this.
  WorkerProbe(Metrics* metrics, int experts, bool expert_metrics);

  // What it computes on, and how that rounds.
  void ComputesOn(const std::string& device, const std::string& arithmetic);
  void StepRan(const v1::StepPlan& plan, const v1::StepDone& done);

  Counter faults, attaches, steps_run_again, steps_ahead;
  Gauge epoch, sequences, kv_blocks_used, kv_blocks_total, snapshots, snapshot_bytes, model_bytes;

 private:
  void CountExpertRows(const google::protobuf::RepeatedField<uint64_t>& rows);

  Metrics* const metrics_;
  const int experts_;
  Histogram step_seconds_;
  Counter steps_, exchange_seconds_, prefill_rows_, decode_rows_;
  Gauge expert_imbalance_;
  std::vector<Counter> expert_rows_;  // one per expert if asked for, else one in all
};

}  // namespace braid
