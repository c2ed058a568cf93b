#pragma once

#include <cstdint>
#include <vector>

#include "monitoring/metrics.h"

namespace braid {

// What the router counts. One per router; the handles are thread-safe.
struct RouterProbe {
  explicit RouterProbe(Metrics* metrics);  // must outlive *this

  Gauge sequences_running, sequences_waiting;
  Histogram queue_seconds;
  Counter finished_stop, finished_length, cancelled, failed, refused;
  Counter sequences_requeued;

  Counter steps;
  Histogram step_seconds, step_rows;
  Counter prefill_rows, decode_rows;
  Counter worker_step_seconds, worker_exchange_seconds;
  Gauge expert_imbalance;

  Gauge kv_blocks_used, kv_blocks_total;
  Gauge ready, workers_wanted, workers_attached, epoch;
  Counter epochs_lost;
};

// How unevenly the experts are used: the most loaded expert's rows over the mean, over windows of steps. 1 is even.
class ExpertImbalance {
 public:
  static constexpr int kWindowSteps = 64;

  // Rows by expert; what other workers computed for the same step may be added in further calls.
  template <typename Rows>
  void Add(const Rows& rows) {
    if (rows_.size() < static_cast<size_t>(rows.size())) rows_.resize(static_cast<size_t>(rows.size()));
    for (int e = 0; e < rows.size(); ++e) rows_[static_cast<size_t>(e)] += static_cast<double>(rows[e]);
  }
  // Ends a step. True every kWindowSteps steps that had rows: then `ratio` is set and a new window begins.
  bool EndStep(double* ratio);

 private:
  std::vector<double> rows_;
  int steps_ = 0;
};

}  // namespace braid
