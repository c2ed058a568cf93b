#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/core/token_window.h"
#include "monitoring/metrics.h"

namespace braid {

// What the gateway counts. Thread-safe; names and help texts are in probe.cc, labels are looked up once.
class GatewayProbe {
 public:
  // `metrics` must outlive the probe.
  GatewayProbe(Metrics* metrics, absl::Time now);

  // Every request ends in exactly one RequestEnded, refused ones included. `door`: "http" or "grpc". `outcome`: OK,
  // kCancelled if the caller went away, or an ApiError's status.
  void RequestEnded(const std::string& door, absl::StatusCode outcome);

  // For requests that passed the validator, in this order; all but the tokens once. A call that the router refuses is
  // never accepted.
  void CallBegan() { in_progress_.Add(1); }
  void CallAccepted(int64_t prompt_tokens);
  void TokensDelivered(int64_t tokens, absl::Time now);
  void CallEnded(absl::Duration latency, int64_t generated_tokens, bool accepted);

  void FirstToken(absl::Duration since_arrival) { first_token_.Observe(absl::ToDoubleSeconds(since_arrival)); }
  // `tokens` came together, `gap` after the ones before: the mean counts once per token.
  void NextTokens(int64_t tokens, absl::Duration gap);
  void SequenceResubmitted() { resubmitted_.Add(); }

  // Sets the gauges that depend on time. To be called every second or so.
  void Tick(absl::Time now);

 private:
  using Outcomes = std::map<absl::StatusCode, Counter>;
  static Outcomes OutcomeCounters(Metrics* metrics, const std::string& door);

  std::map<std::string, Outcomes> requests_;  // by door
  Counter prompt_tokens_, generated_tokens_, resubmitted_;
  Gauge in_progress_, tokens_per_day_, tokens_last_day_;
  Histogram first_token_, inter_token_, request_seconds_, request_prompt_tokens_, request_generated_tokens_;

  absl::Mutex mutex_;
  TokenWindow window_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace braid
