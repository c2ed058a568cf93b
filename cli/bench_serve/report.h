#pragma once

#include <string>
#include <vector>

#include "cli/bench_serve/figures.h"
#include "cli/bench_serve/prompt.h"
#include "cli/bench_serve/record.h"

// What people and programs read at the end. Pure.

namespace braid {

// What was measured, for the head of the report.
struct LoadSetting {
  std::string url, model;
  ServerDialect dialect;
  uint64_t seed = 0;
  double rate_per_s = 0;                     // 0: none
  int concurrency = 0;                       // 0: open loop
  std::string trace;                         // its file; empty: none
  int prompt_tokens = 0, output_tokens = 0;  // without a trace
  int prefix_tokens = 0;
  size_t warmup_requests = 0;
  LatencyLimits limits;
  bool interrupted = false;  // the figures are of what had ended by then
};

std::string LoadTable(const LoadSetting& setting, const LoadFigures& figures);
// One JSON object; with `records`, the member "requests" lists them.
std::string LoadJson(const LoadSetting& setting, const LoadFigures& figures, const std::vector<RequestRecord>* records);

}  // namespace braid
