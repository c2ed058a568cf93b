#include "cli/bench_serve/workload.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/rng.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr int kTokensMax = 100'000'000;  // no model takes as many; keeps sums of them far from overflow
constexpr absl::string_view kCsvHeader = "arrival_s,prompt_tokens,output_tokens";

bool ParseJson(absl::string_view line, TraceEntry* out) {
  const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  const auto number = [&json](const char* name, auto* value) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number()) return false;
    const double wide = found->get<double>();
    if (!(std::abs(wide) <= kTokensMax)) return false;
    *value = static_cast<std::remove_pointer_t<decltype(value)>>(wide);
    return true;
  };
  return number("arrival_s", &out->arrival_s) && number("prompt_tokens", &out->size.prompt_tokens) &&
         number("output_tokens", &out->size.output_tokens);
}

bool ParseCsv(absl::string_view line, TraceEntry* out) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
  return fields.size() == 3 && absl::SimpleAtod(fields[0], &out->arrival_s) &&
         absl::SimpleAtoi(fields[1], &out->size.prompt_tokens) && absl::SimpleAtoi(fields[2], &out->size.output_tokens);
}

bool InRange(const TraceEntry& entry) {
  const auto tokens = [](int count) { return count >= 1 && count <= kTokensMax; };
  return std::isfinite(entry.arrival_s) && entry.arrival_s >= 0 && tokens(entry.size.prompt_tokens) &&
         tokens(entry.size.output_tokens);
}

}  // namespace

absl::StatusOr<std::vector<TraceEntry>> ParseTrace(std::string_view text) {
  std::vector<TraceEntry> trace;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(AbslView(text), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#' || (trace.empty() && line == kCsvHeader)) continue;
    TraceEntry entry;
    const bool parsed = line[0] == '{' ? ParseJson(line, &entry) : ParseCsv(line, &entry);
    if (!parsed || !InRange(entry))
      return InvalidArgument("line " + std::to_string(number) +
                             " is not arrival_s,prompt_tokens,output_tokens (seconds from 0, tokens from 1), as CSV or "
                             "as a JSON object");
    trace.push_back(entry);
  }
  if (trace.empty()) return InvalidArgument("there is no request in it");
  std::stable_sort(trace.begin(), trace.end(),
                   [](const TraceEntry& a, const TraceEntry& b) { return a.arrival_s < b.arrival_s; });
  return trace;
}

std::vector<double> PoissonArrivals(double rate_per_s, uint64_t seed, size_t count_max, double duration_s) {
  CHECK(rate_per_s > 0 && (count_max < SIZE_MAX || std::isfinite(duration_s)));
  constexpr uint32_t kArrivals = 0xA221;  // keeps these draws apart from those of the prompts
  std::vector<double> arrivals;
  double now = 0;
  while (arrivals.size() < count_max) {
    now -= std::log1p(-UniformAt(seed, kArrivals, arrivals.size())) / rate_per_s;
    if (now >= duration_s) break;
    arrivals.push_back(now);
  }
  return arrivals;
}

}  // namespace braid
