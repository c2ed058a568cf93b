#include "cli/bench_serve_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "base/status.h"
#include "base/stop_signal.h"
#include "cli/bench_report.h"
#include "cli/bench_serve/load_run.h"
#include "cli/bench_serve/report.h"
#include "cli/bench_serve/server_probe.h"
#include "gateway/api_key.h"

namespace braid {
namespace {

constexpr int kWarmupOpenLoop = 8;
constexpr size_t kRequestsDefault = 128;

struct BenchServeFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string model, api_key_file, trace, json, prompt;
  double rate = 0, duration_s = 0, temperature = -1, timeout_s = 600;
  int concurrency = 0, prompt_tokens = 512, output_tokens = 128, prefix_tokens = 0, threads = 1;
  int token_min = -1, token_max = -1;
  int64_t requests = 0, warmup = -1;
  uint64_t seed = 0;
  double ttft_limit_ms = 0, itl_limit_ms = 0;
  bool records = false;
};

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError("cannot read " + path);
  return std::move(text).str();
}

absl::StatusOr<Workload> MakeWorkload(const BenchServeFlags& flags) {
  Workload workload;
  workload.concurrency = flags.concurrency;
  if (flags.requests > 0) workload.requests_max = static_cast<size_t>(flags.requests);
  if (flags.duration_s > 0) workload.duration_s = flags.duration_s;
  const bool limited = flags.requests > 0 || flags.duration_s > 0;
  std::vector<TraceEntry> trace;
  if (!flags.trace.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.trace));
    auto parsed = ParseTrace(text);
    if (!parsed.ok()) return Annotate(parsed.status(), flags.trace);
    trace = *std::move(parsed);
    for (const TraceEntry& entry : trace) workload.sizes.push_back(entry.size);
  } else {
    workload.sizes = {{flags.prompt_tokens, flags.output_tokens}};
  }
  if (!limited) workload.requests_max = trace.empty() ? kRequestsDefault : trace.size();
  if (flags.concurrency > 0) return workload;
  if (flags.rate > 0) {
    workload.arrivals_s = PoissonArrivals(flags.rate, flags.seed, workload.requests_max, workload.duration_s);
  } else if (!trace.empty()) {
    for (const TraceEntry& entry : trace) {
      if (workload.arrivals_s.size() < workload.requests_max && entry.arrival_s < workload.duration_s)
        workload.arrivals_s.push_back(entry.arrival_s);
    }
  } else {
    return InvalidArgument("say how requests come: --concurrency N, --rate R or --trace FILE");
  }
  if (workload.arrivals_s.empty()) return InvalidArgument("no request arrives in that time");
  return workload;
}

// As many streams at once as the run itself has; of the same sizes, but other prompts.
Workload MakeWarmup(const Workload& workload, size_t requests) {
  Workload warmup;
  warmup.sizes = workload.sizes;
  warmup.requests_max = requests;
  warmup.concurrency = static_cast<int>(
      std::min<size_t>(requests, workload.open_loop() ? kWarmupOpenLoop : static_cast<size_t>(workload.concurrency)));
  return warmup;
}

// A line that is drawn over, on a terminal.
class LoadProgressLine {
 public:
  LoadProgressLine(const char* what, const Workload& workload) : what_(what), duration_s_(workload.duration_s) {
    total_ = workload.open_loop() ? workload.arrivals_s.size() : workload.requests_max;
  }
  ~LoadProgressLine() {
    if (shown_) fmt::print(stderr, "\r\x1b[K");
  }

  void Show(const LoadRun::Progress& now, double elapsed_s) {
    if (!terminal_) return;
    const double by_count = total_ == SIZE_MAX ? 0 : static_cast<double>(now.ended) / static_cast<double>(total_);
    const double share = std::min(1.0, std::max(by_count, elapsed_s / duration_s_));
    constexpr int kWidth = 30;
    const auto filled = static_cast<size_t>(share * kWidth);
    fmt::print(stderr, "\r\x1b[K{} [{:<{}}] {} of {} requests, {} running, {} failed, {:.0f} output tokens/s", what_,
               std::string(filled, '#'), kWidth, now.ended, total_ == SIZE_MAX ? "?" : std::to_string(total_),
               now.running, now.failed, elapsed_s > 0 ? static_cast<double>(now.output_tokens) / elapsed_s : 0.0);
    std::fflush(stderr);
    shown_ = true;
  }

 private:
  const char* const what_;
  const double duration_s_;
  size_t total_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool shown_ = false;
};

struct LoadResult {
  std::vector<RequestRecord> records;
  double busy_share = 0;
  bool interrupted = false;
};

absl::StatusOr<LoadResult> RunLoad(const char* what, const LoadRunOptions& options, const Workload& workload,
                                   StopSignal* stop) {
  LoadProgressLine line(what, workload);
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadRun> run, LoadRun::Start(options, workload));
  LoadResult result;
  const absl::Time start = absl::Now();
  while (!run->done() && !result.interrupted) {
    result.interrupted = stop->Wait(absl::Milliseconds(50));
    line.Show(run->progress(), absl::ToDoubleSeconds(absl::Now() - start));
  }
  if (result.interrupted) run->Interrupt();
  result.records = run->Wait();
  result.busy_share = run->busy_share();
  return result;
}

absl::Status CheckFlags(const BenchServeFlags& flags) {
  if (flags.concurrency > 0 && flags.rate > 0)
    return InvalidArgument("--concurrency keeps clients waiting for answers, --rate does not: give one of them");
  if ((flags.token_min >= 0) != (flags.token_max >= 0))
    return InvalidArgument("--token-min and --token-max belong together");
  if (flags.token_min >= 0 && flags.token_min >= flags.token_max)
    return InvalidArgument("--token-min must be less than --token-max");
  if (flags.records && flags.json.empty()) return InvalidArgument("--records needs --json");
  return absl::OkStatus();
}

LoadSetting Describe(const BenchServeFlags& flags, const LoadRunOptions& options, const ServerFacts& server) {
  LoadSetting setting = {.url = options.server.Url(),
                         .model = server.model,
                         .dialect = server.dialect,
                         .seed = flags.seed,
                         .rate_per_s = flags.rate,
                         .concurrency = flags.concurrency,
                         .trace = flags.trace,
                         .prompt_tokens = flags.prompt_tokens,
                         .output_tokens = flags.output_tokens,
                         .prefix_tokens = flags.prefix_tokens};
  if (flags.ttft_limit_ms > 0) setting.limits.ttft_ms = flags.ttft_limit_ms;
  if (flags.itl_limit_ms > 0) setting.limits.itl_ms = flags.itl_limit_ms;
  return setting;
}

// The exit status.
absl::StatusOr<int> BenchServe(const BenchServeFlags& flags) {
  RETURN_IF_ERROR(CheckFlags(flags));
  ASSIGN_OR_RETURN(const Workload workload, MakeWorkload(flags));
  StopSignal stop;  // before any thread starts
  LoadRunOptions options;
  ASSIGN_OR_RETURN(options.server, ParseServerUrl(flags.url));
  ASSIGN_OR_RETURN(options.api_key, ReadApiKey(flags.api_key_file));
  options.threads = flags.threads;
  options.timeout = std::chrono::nanoseconds(std::llround(flags.timeout_s * 1e9));

  ProbeWishes wishes = {.model = flags.model};
  if (!flags.prompt.empty()) wishes.prompt = flags.prompt == "text" ? PromptKind::kText : PromptKind::kTokenIds;
  ASSIGN_OR_RETURN(const ServerFacts server, ProbeServer(options, wishes));

  const PromptOptions prompts = {.kind = server.dialect.prompt,
                                 .seed = flags.seed,
                                 .token_min = flags.token_min >= 0 ? flags.token_min : server.token_min,
                                 .token_max = flags.token_min >= 0 ? flags.token_max : server.token_max,
                                 .words_per_token = server.words_per_token,
                                 .prefix_tokens = flags.prefix_tokens};
  const BodyOptions bodies = {.model = server.model, .dialect = server.dialect, .temperature = flags.temperature};
  const auto body_from = [&](uint64_t first) {
    return [&, first](size_t request) {
      const RequestSize size = workload.SizeOf(request);
      return RequestBody(bodies, PromptJson(prompts, first + request, size.prompt_tokens), size.output_tokens,
                         flags.seed + request);
    };
  };

  LoadSetting setting = Describe(flags, options, server);
  setting.warmup_requests = flags.warmup >= 0 ? static_cast<size_t>(flags.warmup)
                                              : static_cast<size_t>(std::max(flags.concurrency, kWarmupOpenLoop));
  LoadResult result;
  if (setting.warmup_requests > 0) {
    constexpr uint64_t kWarmupPrompts = uint64_t{1} << 62;  // none of them is also measured
    options.body = body_from(kWarmupPrompts);
    ASSIGN_OR_RETURN(result, RunLoad("warm-up", options, MakeWarmup(workload, setting.warmup_requests), &stop));
    if (result.interrupted) return absl::CancelledError("interrupted in the warm-up: nothing was measured");
  }
  options.body = body_from(0);
  ASSIGN_OR_RETURN(result, RunLoad("measuring", options, workload, &stop));
  setting.interrupted = result.interrupted;
  LoadFigures figures = Summarize(result.records, setting.limits, flags.concurrency);
  figures.generator_busy_share = result.busy_share;
  RETURN_IF_ERROR(WriteBenchReport(LoadTable(setting, figures),
                                   LoadJson(setting, figures, flags.records ? &result.records : nullptr), flags.json));
  return figures.failed > 0 || setting.interrupted ? 2 : 0;
}

void AddLoadOptions(CLI::App* app, BenchServeFlags* flags) {
  const std::string load = "Load";
  app->add_option("--concurrency", flags->concurrency, "Closed loop: so many clients, each waits for its answer")
      ->check(CLI::Range(1, 100'000))
      ->group(load);
  app->add_option("--rate", flags->rate, "Open loop: requests a second on average, as a Poisson process")
      ->check(CLI::Range(1e-6, 1e6))
      ->group(load);
  app->add_option(
         "--trace", flags->trace,
         "A file with a line `arrival_s,prompt_tokens,output_tokens`, or a JSON object with these members, for "
         "each request; with --concurrency or --rate only its lengths count, over and over")
      ->check(CLI::ExistingFile)
      ->group(load);
  app->add_option("--prompt-tokens", flags->prompt_tokens, "Length of each prompt")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str()
      ->group(load);
  app->add_option("--output-tokens", flags->output_tokens, "Length of each answer")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str()
      ->group(load);
  app->add_option("--prefix-tokens", flags->prefix_tokens, "So many first tokens are the same in all prompts")
      ->check(CLI::NonNegativeNumber)
      ->group(load);
  app->add_option("--requests", flags->requests, "How many to measure; default 128, or the whole trace")
      ->check(CLI::PositiveNumber)
      ->group(load);
  app->add_option("--duration-s", flags->duration_s, "No request begins later; those that have begun are waited for")
      ->check(CLI::PositiveNumber)
      ->group(load);
  app->add_option("--warmup", flags->warmup, "Requests before, left out of the figures; default: the concurrency, or 8")
      ->check(CLI::Range(0, 1'000'000))
      ->group(load);
  app->add_option("--seed", flags->seed, "Arrivals and prompts follow from it")->capture_default_str()->group(load);
}

void AddServerOptions(CLI::App* app, BenchServeFlags* flags) {
  const std::string server = "Server";
  app->add_option("--url", flags->url, "The server: http://HOST:PORT")->capture_default_str()->group(server);
  app->add_option("--model", flags->model, "Default: the first that the server lists")->group(server);
  app->add_option("--api-key-file", flags->api_key_file, "A file whose first line is the key to send")->group(server);
  app->add_option("--prompt", flags->prompt,
                  "Prompts of random token ids, or of common words, about one token each; default: ids if the server "
                  "takes them")
      ->check(CLI::IsMember({"ids", "text"}))
      ->group(server);
  app->add_option("--token-min", flags->token_min, "Ids are drawn from here; default: found by asking")
      ->check(CLI::NonNegativeNumber)
      ->group(server);
  app->add_option("--token-max", flags->token_max, "... to below here")->check(CLI::PositiveNumber)->group(server);
  app->add_option("--temperature", flags->temperature, "Default: the server's")
      ->check(CLI::Range(0.0, 2.0))
      ->group(server);
  app->add_option("--timeout-s", flags->timeout_s, "A request without a whole answer by then has failed")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str()
      ->group(server);
}

void AddReportOptions(CLI::App* app, BenchServeFlags* flags) {
  const std::string report = "Report";
  app->add_option("--ttft-limit-ms", flags->ttft_limit_ms, "Goodput: the first token must come by then")
      ->check(CLI::PositiveNumber)
      ->group(report);
  app->add_option("--itl-limit-ms", flags->itl_limit_ms,
                  "Goodput: 99 % of an answer's gaps between tokens must be this short")
      ->check(CLI::PositiveNumber)
      ->group(report);
  app->add_option("--json", flags->json,
                  "Write all figures to this file; - is standard output (the table goes to "
                  "standard error then)")
      ->group(report);
  app->add_flag("--records", flags->records, "Every request and the arrival of every token in the JSON")->group(report);
  app->add_option("--threads", flags->threads, "Of the load generator; one serves thousands of streams")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group(report);
}

}  // namespace

void AddBenchServeCommand(CLI::App& bench, int* exit_code) {
  const auto flags = std::make_shared<BenchServeFlags>();
  CLI::App* serve = bench.add_subcommand("serve", "Put a load on a server with OpenAI's API and time its answers");
  AddLoadOptions(serve, flags.get());
  AddServerOptions(serve, flags.get());
  AddReportOptions(serve, flags.get());
  serve->callback([flags, exit_code] {
    const absl::StatusOr<int> outcome = BenchServe(*flags);
    if (!outcome.ok()) fmt::print(stderr, "braid bench serve: {}\n", std::string(StdView(outcome.status().message())));
    *exit_code = outcome.ok() ? *outcome : 1;
  });
}

}  // namespace braid
