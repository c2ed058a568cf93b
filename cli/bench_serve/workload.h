#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// What is asked of the server, and when. Pure: the same options and seed ask for the same.

namespace braid {

struct RequestSize {
  int prompt_tokens = 0;
  int output_tokens = 0;
};

struct TraceEntry {
  double arrival_s = 0;  // after the start of the trace
  RequestSize size;
};

// A trace has one request a line, either as CSV, `arrival_s,prompt_tokens,output_tokens` (a first line with these names
// is allowed), or as JSON, {"arrival_s": 0.25, "prompt_tokens": 512, "output_tokens": 128} (other members are ignored).
// Empty lines and lines that begin with # are skipped. The result is sorted by arrival; requests that arrive together
// stay in the file's order. kInvalidArgument names the first bad line; an empty trace is one too.
absl::StatusOr<std::vector<TraceEntry>> ParseTrace(std::string_view text);

// The first arrivals, in seconds, of a Poisson process with `rate_per_s` events a second: at most `count_max`, and all
// before `duration_s`. The n-th arrival does not depend on the two limits.
// REQUIRES: rate_per_s > 0, and one of the limits is finite.
std::vector<double> PoissonArrivals(double rate_per_s, uint64_t seed, size_t count_max, double duration_s);

// Open loop: requests are sent at their times, whatever the server does. Closed loop: `concurrency` clients, each of
// which sends its next request when its last one has ended.
struct Workload {
  static constexpr double kForever = std::numeric_limits<double>::infinity();

  std::vector<RequestSize> sizes;  // request i has sizes[i % sizes.size()]; not empty
  std::vector<double> arrivals_s;  // open loop: one per request, ascending
  int concurrency = 0;             // closed loop: > 0
  size_t requests_max = SIZE_MAX;  // closed loop: no more are begun
  double duration_s = kForever;    // closed loop: none is begun later; one of the two limits is finite

  bool open_loop() const { return concurrency == 0; }
  RequestSize SizeOf(size_t request) const { return sizes[request % sizes.size()]; }
};

}  // namespace braid
