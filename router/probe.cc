#include "router/probe.h"

#include <algorithm>
#include <numeric>

namespace braid {

RouterProbe::RouterProbe(Metrics* metrics)
    : sequences_running(metrics->AddGauge("braid_router_sequences_running", "Sequences that hold KV memory.")),
      sequences_waiting(metrics->AddGauge("braid_router_sequences_waiting", "Sequences that wait for KV memory.")),
      queue_seconds(metrics->AddHistogram("braid_router_queue_seconds", "Time from arrival to reserved memory.",
                                          LatencyBuckets())),
      sequences_requeued(metrics->AddCounter("braid_router_sequences_requeued_total",
                                             "Running sequences sent back to the queue by the loss of an epoch.")),
      steps(metrics->AddCounter("braid_router_steps_total", "Steps committed.")),
      step_seconds(metrics->AddHistogram("braid_router_step_seconds", "Time from a step's plan to its commit.",
                                         TokenLatencyBuckets())),
      step_rows(metrics->AddHistogram("braid_router_step_tokens", "Rows of a step over all workers (batch size).",
                                      TokenCountBuckets())),
      worker_step_seconds(
          metrics->AddCounter("braid_router_worker_step_seconds_total",
                              "Time that workers spent in steps, as they report it, over all workers.")),
      worker_exchange_seconds(metrics->AddCounter("braid_router_worker_exchange_seconds_total",
                                                  "Of braid_router_worker_step_seconds_total, time spent waiting for "
                                                  "peers and moving bytes.")),
      expert_imbalance(metrics->AddGauge("braid_expert_imbalance_ratio",
                                         "Rows of the busiest expert over the mean, over the last window of steps.")),
      kv_blocks_used(metrics->AddGauge("braid_kv_blocks_used", "KV blocks reserved for sequences, over all workers.")),
      kv_blocks_total(metrics->AddGauge("braid_kv_blocks", "KV blocks of all workers of the epoch.")),
      ready(metrics->AddGauge("braid_router_ready", "1 while an epoch serves and nothing drains, else 0.")),
      workers_wanted(metrics->AddGauge("braid_router_workers_wanted", "Workers that make the group complete.")),
      workers_attached(metrics->AddGauge("braid_router_workers_attached", "Workers attached, standby ones included.")),
      epoch(metrics->AddGauge("braid_router_epoch", "The epoch that serves; 0 if none does.")),
      epochs_lost(
          metrics->AddCounter("braid_router_epochs_lost_total", "Epochs ended by a loss, a fault or a leave.")) {
  auto finished = [metrics](const char* reason) {
    return metrics->AddCounter("braid_router_sequences_finished_total", "Sequences ended, by reason.",
                               {{"reason", reason}});
  };
  finished_stop = finished("stop");
  finished_length = finished("length");
  cancelled = finished("cancelled");
  failed = finished("failed");
  refused = metrics->AddCounter("braid_router_sequences_refused_total", "Sequences refused before they were queued.");
  auto rows = [metrics](const char* kind) {
    return metrics->AddCounter("braid_router_step_rows_total", "Rows of committed steps, by kind.", {{"kind", kind}});
  };
  prefill_rows = rows("prefill");
  decode_rows = rows("decode");
}

bool ExpertImbalance::EndStep(double* ratio) {
  const double total = std::accumulate(rows_.begin(), rows_.end(), 0.0);
  if (total == 0 || ++steps_ < kWindowSteps) return false;
  *ratio = *std::max_element(rows_.begin(), rows_.end()) * static_cast<double>(rows_.size()) / total;
  rows_.assign(rows_.size(), 0);
  steps_ = 0;
  return true;
}

}  // namespace braid
