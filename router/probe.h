#pragma once

#include "monitoring/metrics.h"

namespace braid {

// What the router counts. One per router; the handles are thread-safe.
struct RouterProbe {
  explicit RouterProbe(Metrics* metrics);  // must outlive *this

  Gauge sequences_running, sequences_waiting;
  Histogram queue_seconds;
  Counter finished_stop, finished_length, cancelled, failed, refused;
  Counter sequences_requeued, sequences_kept, quarantined;

  Counter steps, steps_ahead;
  Histogram step_seconds, step_rows;
  Counter prefill_rows, decode_rows, rejected_rows;
  Counter drafted_tokens, accepted_tokens;
  Counter worker_step_seconds, worker_exchange_seconds;
  Gauge expert_imbalance, placement_imbalance;
  Counter rebalances, experts_moved;

  Gauge kv_blocks_used, kv_blocks_total;
  Counter prefix_lookups, prefix_hits, prefix_hit_tokens, prefix_saves, prefix_drops;
  Gauge prefix_blocks, prefix_snapshots;
  Gauge ready, is_protected, groups_ready, workers_wanted, workers_attached, epoch;
  Counter epochs_lost, links_cut;
  Histogram epoch_pause_seconds;
};

}  // namespace braid
