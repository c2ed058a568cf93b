#include "gateway/probe.h"

#include "absl/strings/ascii.h"

namespace braid {
namespace {

// The statuses with which a request can end; any other would be our mistake and counts as internal.
constexpr absl::StatusCode kOutcomes[] = {
    absl::StatusCode::kOk,       absl::StatusCode::kCancelled,         absl::StatusCode::kInvalidArgument,
    absl::StatusCode::kNotFound, absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable,
    absl::StatusCode::kInternal, absl::StatusCode::kDeadlineExceeded};

// The values of the label `outcome`: "ok", "cancelled", "resource_exhausted"...
std::string OutcomeName(absl::StatusCode code) { return absl::AsciiStrToLower(absl::StatusCodeToString(code)); }

}  // namespace

GatewayProbe::GatewayProbe(Metrics* metrics, absl::Time now) : window_(now) {
  for (const char* door : {"http", "grpc"}) requests_[door] = OutcomeCounters(metrics, door);
  prompt_tokens_ = metrics->AddCounter("braid_prompt_tokens_total", "Prompt tokens of accepted requests.");
  generated_tokens_ = metrics->AddCounter("braid_generated_tokens_total", "Tokens delivered to callers.");
  resubmitted_ = metrics->AddCounter("braid_gateway_resubmissions_total",
                                     "Sequences sent to the router again after their stream broke.");
  in_progress_ = metrics->AddGauge("braid_requests_in_progress", "Requests that passed validation and have not ended.");
  tokens_per_day_ =
      metrics->AddGauge("braid_tokens_per_day", "Generated tokens of a day at the rate of the last five minutes.");
  tokens_last_day_ = metrics->AddGauge("braid_tokens_last_24h", "Generated tokens of the last 24 hours, counted.");
  first_token_ = metrics->AddHistogram("braid_time_to_first_token_seconds",
                                       "From a request's arrival to its first token.", LatencyBuckets());
  inter_token_ =
      metrics->AddHistogram("braid_inter_token_seconds", "Between two tokens of one choice.", TokenLatencyBuckets());
  request_seconds_ = metrics->AddHistogram("braid_request_seconds",
                                           "From the arrival of an accepted request to its end.", LatencyBuckets());
  request_prompt_tokens_ =
      metrics->AddHistogram("braid_request_prompt_tokens", "Prompt tokens of a request.", TokenCountBuckets());
  request_generated_tokens_ =
      metrics->AddHistogram("braid_request_generated_tokens", "Generated tokens of a request.", TokenCountBuckets());
}

GatewayProbe::Outcomes GatewayProbe::OutcomeCounters(Metrics* metrics, const std::string& door) {
  Outcomes counters;
  for (absl::StatusCode code : kOutcomes)
    counters[code] = metrics->AddCounter("braid_requests_total", "Requests by door and outcome.",
                                         {{"door", door}, {"outcome", OutcomeName(code)}});
  return counters;
}

void GatewayProbe::RequestEnded(const std::string& door, absl::StatusCode outcome) {
  Outcomes& outcomes = requests_.at(door);
  const auto found = outcomes.find(outcome);
  (found == outcomes.end() ? outcomes.at(absl::StatusCode::kInternal) : found->second).Add();
}

void GatewayProbe::CallAccepted(int64_t prompt_tokens) {
  prompt_tokens_.Add(static_cast<double>(prompt_tokens));
  request_prompt_tokens_.Observe(static_cast<double>(prompt_tokens));
}

void GatewayProbe::TokensDelivered(int64_t tokens, absl::Time now) {
  if (tokens == 0) return;
  generated_tokens_.Add(static_cast<double>(tokens));
  absl::MutexLock lock(&mutex_);
  window_.Add(tokens, now);
}

void GatewayProbe::CallEnded(absl::Duration latency, int64_t generated_tokens, bool accepted) {
  in_progress_.Add(-1);
  if (!accepted) return;
  request_seconds_.Observe(absl::ToDoubleSeconds(latency));
  request_generated_tokens_.Observe(static_cast<double>(generated_tokens));
}

void GatewayProbe::NextTokens(int64_t tokens, absl::Duration gap) {
  for (int64_t i = 0; i < tokens; ++i) inter_token_.Observe(absl::ToDoubleSeconds(gap) / static_cast<double>(tokens));
}

void GatewayProbe::Tick(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  tokens_per_day_.Set(window_.PerDay(now));
  tokens_last_day_.Set(static_cast<double>(window_.LastDay(now)));
}

}  // namespace braid
