#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_serve/record.h"

// From records to figures. Pure.
//
//   TTFT        the first token's arrival, from when the request was to be sent
//   ITL         every time between two arrivals of tokens of one request; tokens that arrive together have none
//   TPOT        of one request: the time from first to last token, over the tokens after the first arrival
//   end to end  the answer's end, from when the request was to be sent
//
// Only complete requests have latencies; a request that failed counts as failed, and for its tokens.

namespace braid {

// The value that a share of the sorted values does not exceed, interpolated between the two nearest (as numpy does).
// REQUIRES: sorted is ascending and not empty, 0 <= share <= 1.
double Percentile(const std::vector<double>& sorted, double share);

struct Distribution {
  size_t count = 0;  // 0: the rest is 0 too
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};
Distribution Describe(std::vector<double> values);

struct LatencyLimits {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;  // 99 % of the request's gaps must keep it

  bool any() const { return ttft_ms || itl_ms; }
};
// False if the request is not complete.
bool KeepsLimits(const RequestRecord& record, const LatencyLimits& limits);

struct ErrorKind {
  size_t count = 0;
  std::string example;
};

struct LoadFigures {
  size_t requests = 0, completed = 0, failed = 0;
  size_t shorter_than_asked = 0;            // of the completed
  std::map<std::string, ErrorKind> errors;  // by kind

  Distribution ttft_ms, itl_ms, tpot_ms, end_to_end_ms;
  Distribution send_delay_ms;       // the generator's own: sent, after it was to be sent
  double generator_busy_share = 0;  // of its busiest thread; left to the caller of Summarize()
  double tokens_per_arrival = 0;    // more than 1: ITL is the time between groups of tokens

  double duration_s = 0;  // from the first scheduled request to the last end
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  bool tokens_by_server = false;  // of every complete request
  double requests_per_s = 0;      // completed
  double output_tokens_per_s = 0, total_tokens_per_s = 0;

  // Closed loop: output tokens/s while every client had an answer in progress, without the ramps at both ends. From
  // when each client had a first token to the first end after which there was no request to follow; 0 if that is no
  // time at all.
  double full_s = 0;
  double full_output_tokens_per_s = 0;

  size_t within_limits = 0;
  double goodput_share = 0;  // of all requests
  double goodput_per_s = 0;
};

// `concurrency` 0: open loop.
LoadFigures Summarize(const std::vector<RequestRecord>& records, const LatencyLimits& limits, int concurrency);

}  // namespace braid
