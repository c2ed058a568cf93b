#include "cli/bench_serve/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace braid {
namespace {

constexpr double kMsPerS = 1000;

std::vector<double> GapsMs(const RequestRecord& record) {
  std::vector<double> gaps;
  for (size_t i = 1; i < record.arrivals.size(); ++i)
    gaps.push_back(kMsPerS * (record.arrivals[i].at_s - record.arrivals[i - 1].at_s));
  return gaps;
}

// Tokens as they arrived; less than output_tokens if the server counted some that no chunk told of.
int ArrivedTokens(const RequestRecord& record) {
  return std::accumulate(record.arrivals.begin(), record.arrivals.end(), 0,
                         [](int sum, const TokenArrival& arrival) { return sum + arrival.tokens; });
}

void AddLatencies(const std::vector<RequestRecord>& records, LoadFigures* out) {
  std::vector<double> ttft, itl, tpot, end_to_end;
  int64_t arrivals = 0, tokens = 0;
  for (const RequestRecord& record : records) {
    if (!record.complete()) continue;
    end_to_end.push_back(kMsPerS * (record.ended_s - record.scheduled_s));
    if (record.arrivals.empty()) continue;
    const TokenArrival &first = record.arrivals.front(), &last = record.arrivals.back();
    ttft.push_back(kMsPerS * (first.at_s - record.scheduled_s));
    const int later_tokens = record.output_tokens - first.tokens;
    if (record.arrivals.size() > 1 && later_tokens > 0)
      tpot.push_back(kMsPerS * (last.at_s - first.at_s) / later_tokens);
    const std::vector<double> gaps = GapsMs(record);
    itl.insert(itl.end(), gaps.begin(), gaps.end());
    arrivals += static_cast<int64_t>(record.arrivals.size());
    tokens += record.output_tokens;
  }
  out->ttft_ms = Describe(std::move(ttft));
  out->itl_ms = Describe(std::move(itl));
  out->tpot_ms = Describe(std::move(tpot));
  out->end_to_end_ms = Describe(std::move(end_to_end));
  if (arrivals > 0) out->tokens_per_arrival = static_cast<double>(tokens) / static_cast<double>(arrivals);
}

void AddCounts(const std::vector<RequestRecord>& records, LoadFigures* out) {
  out->requests = records.size();
  out->tokens_by_server = true;
  double start_s = std::numeric_limits<double>::infinity(), end_s = 0;
  std::vector<double> delays;
  for (const RequestRecord& record : records) {
    start_s = std::min(start_s, record.scheduled_s);
    end_s = std::max(end_s, record.ended_s);
    if (record.sent_s > 0) delays.push_back(kMsPerS * (record.sent_s - record.scheduled_s));
    out->output_tokens += record.output_tokens;
    if (!record.complete()) {
      ErrorKind& kind = out->errors[record.error];
      if (kind.count++ == 0) kind.example = record.error_detail;
      continue;
    }
    ++out->completed;
    out->prompt_tokens += record.prompt_tokens;
    out->cached_tokens += record.cached_tokens;
    out->tokens_by_server = out->tokens_by_server && record.tokens_by_server;
    if (record.output_tokens < record.output_tokens_asked) ++out->shorter_than_asked;
  }
  out->failed = out->requests - out->completed;
  out->send_delay_ms = Describe(std::move(delays));
  out->duration_s = std::max(0.0, end_s - start_s);
}

// See LoadFigures::full_s.
void AddFullLoad(std::vector<const RequestRecord*> by_start, size_t concurrency, LoadFigures* out) {
  if (by_start.size() < concurrency) return;
  std::sort(by_start.begin(), by_start.end(),
            [](const RequestRecord* a, const RequestRecord* b) { return a->scheduled_s < b->scheduled_s; });
  const double last_start_s = by_start.back()->scheduled_s;
  double from_s = 0, to_s = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < concurrency; ++i) {
    if (!by_start[i]->arrivals.empty()) from_s = std::max(from_s, by_start[i]->arrivals.front().at_s);
  }
  for (const RequestRecord* record : by_start) {
    if (record->ended_s >= last_start_s) to_s = std::min(to_s, record->ended_s);
  }
  if (!(to_s > from_s)) return;
  double tokens = 0;
  for (const RequestRecord* record : by_start) {
    const int arrived = ArrivedTokens(*record);
    const double weight = arrived > 0 ? static_cast<double>(record->output_tokens) / arrived : 0;
    for (const TokenArrival& arrival : record->arrivals)
      if (arrival.at_s > from_s && arrival.at_s <= to_s) tokens += weight * arrival.tokens;
  }
  out->full_s = to_s - from_s;
  out->full_output_tokens_per_s = tokens / out->full_s;
}

}  // namespace

double Percentile(const std::vector<double>& sorted, double share) {
  CHECK(!sorted.empty() && share >= 0 && share <= 1);
  const double rank = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (rank - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Distribution Describe(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.count = values.size(),
          .mean = sum / static_cast<double>(values.size()),
          .p50 = Percentile(values, 0.5),
          .p90 = Percentile(values, 0.9),
          .p99 = Percentile(values, 0.99),
          .max = values.back()};
}

bool KeepsLimits(const RequestRecord& record, const LatencyLimits& limits) {
  if (!record.complete() || record.arrivals.empty()) return false;
  if (limits.ttft_ms && kMsPerS * (record.arrivals.front().at_s - record.scheduled_s) > *limits.ttft_ms) return false;
  if (!limits.itl_ms) return true;
  std::vector<double> gaps = GapsMs(record);
  std::sort(gaps.begin(), gaps.end());
  return gaps.empty() || Percentile(gaps, 0.99) <= *limits.itl_ms;
}

LoadFigures Summarize(const std::vector<RequestRecord>& records, const LatencyLimits& limits, int concurrency) {
  LoadFigures out;
  if (records.empty()) return out;
  AddCounts(records, &out);
  AddLatencies(records, &out);
  std::vector<const RequestRecord*> pointers;
  for (const RequestRecord& record : records) {
    pointers.push_back(&record);
    if (KeepsLimits(record, limits)) ++out.within_limits;
  }
  if (concurrency > 0) AddFullLoad(std::move(pointers), static_cast<size_t>(concurrency), &out);
  out.goodput_share = static_cast<double>(out.within_limits) / static_cast<double>(out.requests);
  if (out.duration_s <= 0) return out;
  out.requests_per_s = static_cast<double>(out.completed) / out.duration_s;
  out.output_tokens_per_s = static_cast<double>(out.output_tokens) / out.duration_s;
  out.total_tokens_per_s = static_cast<double>(out.prompt_tokens + out.output_tokens) / out.duration_s;
  out.goodput_per_s = static_cast<double>(out.within_limits) / out.duration_s;
  return out;
}

}  // namespace braid
