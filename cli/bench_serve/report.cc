#include "cli/bench_serve/report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"

namespace braid {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kSendDelayWarnMs = 10;  // of the 99th percentile: beyond it the generator itself shows in latencies

constexpr double kBusyWarnShare = 0.7;

// "1,234"; three digits for what is small.
std::string Number(double value) {
  if (value < 9.995) return fmt::format("{:.2f}", value);
  if (value < 99.95) return fmt::format("{:.1f}", value);
  std::string digits = fmt::format("{:.0f}", value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string Count(int64_t value) { return value < 100 ? fmt::format("{}", value) : Number(static_cast<double>(value)); }

std::string LoadInWords(const LoadSetting& setting) {
  std::string load;
  if (setting.concurrency > 0) {
    load = fmt::format("{} streams at once", setting.concurrency);
  } else if (setting.rate_per_s > 0) {
    load = fmt::format("open loop, {:g} requests/s (Poisson)", setting.rate_per_s);
  } else {
    load = "open loop, arrivals of the trace";
  }
  if (!setting.trace.empty()) {
    load += ", lengths of " + setting.trace;
  } else {
    load += fmt::format(", {} prompt + {} output tokens", setting.prompt_tokens, setting.output_tokens);
  }
  if (setting.prefix_tokens > 0) load += fmt::format(", the first {} shared", setting.prefix_tokens);
  load += setting.dialect.prompt == PromptKind::kTokenIds ? ", prompts of token ids" : ", prompts of text";
  return load + fmt::format(", seed {}", setting.seed);
}

void AddRow(const char* name, const Distribution& values, std::string* out) {
  if (values.count == 0) return;
  *out += fmt::format("  {:<28}{:>10}{:>10}{:>10}{:>10}{:>10}\n", name, Number(values.mean), Number(values.p50),
                      Number(values.p90), Number(values.p99), Number(values.max));
}

void AddLatencies(const LoadFigures& figures, std::string* out) {
  if (figures.completed == 0) return;
  *out +=
      fmt::format("\n  {:<28}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "latency in ms", "mean", "p50", "p90", "p99", "max");
  AddRow("first token (TTFT)", figures.ttft_ms, out);
  AddRow("between tokens (ITL)", figures.itl_ms, out);
  AddRow("per output token (TPOT)", figures.tpot_ms, out);
  AddRow("end to end", figures.end_to_end_ms, out);
}

std::string LimitsInWords(const LatencyLimits& limits) {
  std::string words;
  if (limits.ttft_ms) words += fmt::format("TTFT <= {:g} ms", *limits.ttft_ms);
  if (limits.itl_ms) words += fmt::format("{}ITL <= {:g} ms", words.empty() ? "" : ", ", *limits.itl_ms);
  return words;
}

void AddThroughput(const LoadSetting& setting, const LoadFigures& figures, std::string* out) {
  const auto row = [out](const std::string& name, const std::string& value) {
    *out += fmt::format("  {:<28}{:>10}\n", name, value);
  };
  *out += "\n";
  row("requests/s", Number(figures.requests_per_s));
  row("output tokens/s", Number(figures.output_tokens_per_s));
  if (figures.full_s > 0)
    *out += fmt::format("  {:<28}{:>10}   (for {} s)\n", "  while all streams ran",
                        Number(figures.full_output_tokens_per_s), Number(figures.full_s));
  row("prompt + output tokens/s", Number(figures.total_tokens_per_s));
  if (figures.cached_tokens > 0)
    row("prompt tokens from cache",
        fmt::format("{:.1f} %", 100.0 * static_cast<double>(figures.cached_tokens) /
                                    static_cast<double>(std::max<int64_t>(figures.prompt_tokens, 1))));
  if (setting.limits.any())
    *out += fmt::format("  {:<28}{:>10}   ({:.1f} % of requests: {})\n", "goodput, requests/s",
                        Number(figures.goodput_per_s), 100 * figures.goodput_share, LimitsInWords(setting.limits));
}

void AddNotes(const LoadSetting& setting, const LoadFigures& figures, std::string* out) {
  std::string notes;
  for (const auto& [kind, error] : figures.errors)
    notes += fmt::format("  failed: {} x {}{}{}\n", error.count, kind,
                         error.example.empty() ? "" : ", such as: ", error.example);
  if (setting.interrupted) notes += "  note: interrupted; requests in progress are not counted\n";
  if (figures.shorter_than_asked > 0)
    notes += fmt::format("  note: {} answers ended before their length{}\n", figures.shorter_than_asked,
                         setting.dialect.ignore_eos ? "" : " (this server does not know ignore_eos)");
  if (figures.completed > 0 && !figures.tokens_by_server)
    notes += "  note: the server does not count tokens; every chunk with text counts as one\n";
  if (setting.dialect.prompt == PromptKind::kText)
    notes += "  note: prompts are words, as many as make about the wanted number of tokens\n";
  if (figures.tokens_per_arrival > 1.05)
    notes += fmt::format("  note: tokens arrive {:.2f} at a time on average; ITL is the time between arrivals\n",
                         figures.tokens_per_arrival);
  if (figures.generator_busy_share > kBusyWarnShare)
    notes += fmt::format("  note: the load generator was {:.0f} % busy; give it more --threads\n",
                         100 * figures.generator_busy_share);
  if (figures.send_delay_ms.p99 > kSendDelayWarnMs)
    notes += fmt::format("  note: one request in a hundred was sent {} ms late or more; this machine is too busy\n",
                         Number(figures.send_delay_ms.p99));
  if (setting.concurrency == 0 && figures.completed > 0)
    notes += "  Latencies count from the scheduled arrival, so waiting for a slow server is in them.\n";
  if (!notes.empty()) *out += "\n" + notes;
}

Json ToJson(const Distribution& values) {
  return {{"count", values.count}, {"mean", values.mean}, {"p50", values.p50},
          {"p90", values.p90},     {"p99", values.p99},   {"max", values.max}};
}

Json ToJson(const LoadSetting& setting) {
  Json json = {{"url", setting.url}, {"model", setting.model}, {"seed", setting.seed}};
  json["mode"] = setting.concurrency > 0 ? "closed" : "open";
  if (setting.concurrency > 0) json["concurrency"] = setting.concurrency;
  if (setting.rate_per_s > 0) json["rate_per_s"] = setting.rate_per_s;
  if (!setting.trace.empty()) {
    json["trace"] = setting.trace;
  } else {
    json["prompt_tokens"] = setting.prompt_tokens;
    json["output_tokens"] = setting.output_tokens;
  }
  json["prefix_tokens"] = setting.prefix_tokens;
  json["warmup_requests"] = setting.warmup_requests;
  json["prompt_kind"] = setting.dialect.prompt == PromptKind::kTokenIds ? "token_ids" : "text";
  json["ignore_eos"] = setting.dialect.ignore_eos;
  if (setting.limits.ttft_ms) json["ttft_limit_ms"] = *setting.limits.ttft_ms;
  if (setting.limits.itl_ms) json["itl_limit_ms"] = *setting.limits.itl_ms;
  json["interrupted"] = setting.interrupted;
  return json;
}

Json ToJson(const RequestRecord& record) {
  Json json = {{"request", record.request},
               {"scheduled_s", record.scheduled_s},
               {"sent_s", record.sent_s},
               {"ended_s", record.ended_s},
               {"prompt_tokens_asked", record.prompt_tokens_asked},
               {"output_tokens_asked", record.output_tokens_asked},
               {"prompt_tokens", record.prompt_tokens},
               {"cached_tokens", record.cached_tokens},
               {"output_tokens", record.output_tokens},
               {"http_status", record.http_status},
               {"finish_reason", record.finish_reason}};
  if (!record.complete()) json["error"] = {{"kind", record.error}, {"detail", record.error_detail}};
  Json& arrivals = json["arrivals"] = Json::array();
  for (const TokenArrival& arrival : record.arrivals) arrivals.push_back({arrival.at_s, arrival.tokens});
  return json;
}

}  // namespace

std::string LoadTable(const LoadSetting& setting, const LoadFigures& figures) {
  std::string out = fmt::format("{}{}{}\n", setting.url, setting.model.empty() ? "" : ", ", setting.model);
  out += LoadInWords(setting) + "\n\n";
  out += fmt::format("  {} requests in {} s: {} complete, {} failed; {} output tokens\n",
                     Count(static_cast<int64_t>(figures.requests)), Number(figures.duration_s),
                     Count(static_cast<int64_t>(figures.completed)), Count(static_cast<int64_t>(figures.failed)),
                     Count(figures.output_tokens));
  AddLatencies(figures, &out);
  if (figures.completed > 0) AddThroughput(setting, figures, &out);
  AddNotes(setting, figures, &out);
  return out;
}

std::string LoadJson(const LoadSetting& setting, const LoadFigures& figures,
                     const std::vector<RequestRecord>* records) {
  Json errors = Json::object();
  for (const auto& [kind, error] : figures.errors) errors[kind] = {{"count", error.count}, {"example", error.example}};
  Json json = {
      {"setting", ToJson(setting)},
      {"duration_s", figures.duration_s},
      {"requests_total", figures.requests},
      {"requests_completed", figures.completed},
      {"requests_failed", figures.failed},
      {"requests_shorter_than_asked", figures.shorter_than_asked},
      {"errors", std::move(errors)},
      {"latency_ms",
       {{"ttft", ToJson(figures.ttft_ms)},
        {"itl", ToJson(figures.itl_ms)},
        {"tpot", ToJson(figures.tpot_ms)},
        {"end_to_end", ToJson(figures.end_to_end_ms)}}},
      {"tokens",
       {{"prompt", figures.prompt_tokens},
        {"prompt_cached", figures.cached_tokens},
        {"output", figures.output_tokens},
        {"counted_by_server", figures.tokens_by_server},
        {"per_arrival", figures.tokens_per_arrival}}},
      {"throughput",
       {{"requests_per_s", figures.requests_per_s},
        {"output_tokens_per_s", figures.output_tokens_per_s},
        {"total_tokens_per_s", figures.total_tokens_per_s},
        {"full_load_s", figures.full_s},
        {"full_load_output_tokens_per_s", figures.full_output_tokens_per_s}}},
      {"goodput",
       {{"requests", figures.within_limits},
        {"share", figures.goodput_share},
        {"requests_per_s", figures.goodput_per_s}}},
      {"generator", {{"busy_share", figures.generator_busy_share}, {"send_delay_ms", ToJson(figures.send_delay_ms)}}}};
  if (records != nullptr) {
    Json& list = json["requests"] = Json::array();
    for (const RequestRecord& record : *records) list.push_back(ToJson(record));
  }
  // A server's words in an error need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace braid
