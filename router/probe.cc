#include "router/probe.h"

namespace braid {

RouterProbe::RouterProbe(Metrics* metrics)
    : sequences_running(metrics->AddGauge("braid_router_sequences_running", "Sequences that hold KV memory.")),
      sequences_waiting(metrics->AddGauge("braid_router_sequences_waiting", "Sequences that wait for KV memory.")),
      queue_seconds(metrics->AddHistogram("braid_router_queue_seconds", "Time from arrival to reserved memory.",
                                          LatencyBuckets())),
      sequences_requeued(metrics->AddCounter("braid_router_sequences_requeued_total",
                                             "Running sequences whose owner was lost: prefilled again.")),
      sequences_kept(metrics->AddCounter("braid_router_sequences_kept_total",
                                         "Running sequences that went on in the next epoch where they were.")),
      quarantined(metrics->AddCounter("braid_router_sequences_quarantined_total",
                                      "Sequences ended because workers crashed whenever they ran them.")),
      steps(metrics->AddCounter("braid_router_steps_total", "Steps committed.")),
      steps_ahead(metrics->AddCounter("braid_router_steps_ahead_total",
                                      "Steps that were planned while the step before them ran.")),
      step_seconds(metrics->AddHistogram("braid_router_step_seconds",
                                         "Time from when a step could begin to its commit.", TokenLatencyBuckets())),
      step_rows(metrics->AddHistogram("braid_router_step_tokens", "Rows of a step over all workers (batch size).",
                                      TokenCountBuckets())),
      drafted_tokens(metrics->AddCounter("braid_router_drafted_tokens_total",
                                         "Tokens that were guessed, and run to see whether they are right.")),
      accepted_tokens(metrics->AddCounter("braid_router_accepted_tokens_total",
                                          "Of braid_router_drafted_tokens_total, those that were right.")),
      worker_step_seconds(
          metrics->AddCounter("braid_router_worker_step_seconds_total",
                              "Time that workers spent in steps, as they report it, over all workers.")),
      worker_exchange_seconds(metrics->AddCounter("braid_router_worker_exchange_seconds_total",
                                                  "Of braid_router_worker_step_seconds_total, time spent waiting for "
                                                  "peers and moving bytes with nothing to compute meanwhile, on CPUs "
                                                  "or on GPUs.")),
      expert_imbalance(metrics->AddGauge("braid_expert_imbalance_ratio",
                                         "Rows of the busiest expert of each layer over the mean, lately.")),
      placement_imbalance(metrics->AddGauge("braid_placement_imbalance_ratio",
                                            "Rows of the busiest worker of each layer over the mean, as placed now.")),
      rebalances(metrics->AddCounter("braid_rebalances_total", "Times experts were moved because of their load.")),
      experts_moved(metrics->AddCounter("braid_experts_moved_total",
                                        "Experts read in by a worker because of a change of epoch, over all layers.")),
      kv_blocks_used(metrics->AddGauge("braid_kv_blocks_used", "KV blocks reserved for sequences, over all workers.")),
      kv_blocks_total(metrics->AddGauge("braid_kv_blocks", "KV blocks of all workers of the epoch.")),
      prefix_lookups(metrics->AddCounter("braid_router_prefix_lookups_total",
                                         "Sequences placed on a worker, so that its prefix cache was asked.")),
      prefix_hits(metrics->AddCounter("braid_router_prefix_hits_total",
                                      "Of braid_router_prefix_lookups_total, those that began with a snapshot.")),
      prefix_hit_tokens(metrics->AddCounter("braid_router_prefix_hit_tokens_total",
                                            "Tokens that were not computed because a snapshot had them.")),
      prefix_saves(metrics->AddCounter("braid_router_prefix_saves_total", "Snapshots that workers were told to save.")),
      prefix_drops(metrics->AddCounter("braid_router_prefix_drops_total",
                                       "Snapshots that workers were told to drop: for want of room, or because a later "
                                       "one of the same answer took their place.")),
      prefix_blocks(metrics->AddGauge("braid_router_prefix_blocks",
                                      "KV blocks that snapshots alone hold, over all workers; free if need be.")),
      prefix_snapshots(metrics->AddGauge("braid_router_prefix_snapshots", "Snapshots of all workers.")),
      ready(
          metrics->AddGauge("braid_router_ready", "1 while an epoch serves, or did a moment ago, and nothing drains.")),
      is_protected(metrics->AddGauge("braid_router_protected",
                                     "1 while the loss of any one worker would be only a pause, else 0.")),
      groups_ready(metrics->AddGauge("braid_router_groups_ready", "Groups in which an epoch serves.")),
      workers_wanted(metrics->AddGauge("braid_router_workers_wanted", "Workers that all groups begin with.")),
      workers_attached(metrics->AddGauge("braid_router_workers_attached", "Workers attached, standby ones included.")),
      epoch(metrics->AddGauge("braid_router_epoch", "The epoch that serves; 0 if none does.")),
      epochs_lost(metrics->AddCounter("braid_router_epochs_lost_total", "Epochs ended by a loss or a fault.")),
      links_cut(metrics->AddCounter("braid_router_links_cut_total",
                                    "Times two live workers were found not to reach each other.")),
      epoch_pause_seconds(metrics->AddHistogram("braid_router_epoch_pause_seconds",
                                                "Time without steps at a change of epoch.", LatencyBuckets())) {
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
  rejected_rows = rows("rejected draft");
}

}  // namespace braid
