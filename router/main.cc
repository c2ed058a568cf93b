// braid-router: the scheduler of a cluster. Gateways and expert workers connect to it.

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/logging.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "monitoring/http_endpoint.h"
#include "monitoring/metrics.h"
#include "router/router.h"

namespace braid {
namespace {

struct Flags {
  RouterOptions router{.listen = "127.0.0.1:7070"};
  std::string metrics_host = "127.0.0.1";
  int metrics_port = 9070;
  int drain_s = 30;
};

CLI::Option* AddMilliseconds(CLI::App& app, const std::string& name, absl::Duration& value, const std::string& help) {
  return app
      .add_option_function<int64_t>(
          name, [&value](int64_t ms) { value = absl::Milliseconds(ms); }, help)
      ->check(CLI::PositiveNumber)
      ->default_str(std::to_string(absl::ToInt64Milliseconds(value)));
}

void AddFlags(CLI::App& app, Flags& flags) {
  RouterOptions& router = flags.router;
  auto add = [&app](const char* name, auto& value, const char* help, const char* variable) {
    app.add_option(name, value, help)->capture_default_str()->envname(variable);
  };
  add("--listen", router.listen, "host:port for gateways and workers; port 0 picks one", "BRAID_ROUTER_LISTEN");
  add("--workers", router.workers,
      "expert workers that a group begins to serve with; it goes on with fewer, and takes in more",
      "BRAID_ROUTER_WORKERS");
  add("--workers-max", router.workers_max, "expert workers of a group; further ones stand by. 0: no limit",
      "BRAID_ROUTER_WORKERS_MAX");
  add("--groups", router.groups,
      "groups that workers without --group are spread over, the GPUs of one host together; 0: each host's GPUs are "
      "one, all CPU workers are one",
      "BRAID_ROUTER_GROUPS");
  add("--replica-experts", router.replica_experts,
      "per layer, hot experts that a worker may hold beyond its even share: the memory for replicas",
      "BRAID_ROUTER_REPLICA_EXPERTS");
  add("--rebalance-experts", router.rebalance_experts, "per layer, experts that one rebalancing may move or replicate",
      "BRAID_ROUTER_REBALANCE_EXPERTS");
  AddMilliseconds(app, "--rebalance-interval-ms", router.rebalance_interval,
                  "experts are placed anew by their load at most this often")
      ->envname("BRAID_ROUTER_REBALANCE_INTERVAL_MS");
  add("--step-tokens", router.step_tokens, "rows of one step over all workers", "BRAID_ROUTER_STEP_TOKENS");
  add("--chunk-tokens", router.chunk_tokens, "longest piece of one prompt in a step", "BRAID_ROUTER_CHUNK_TOKENS");
  add("--draft-tokens-max", router.draft_tokens_max,
      "tokens of one sequence that a step guesses and checks at once, where that pays; answers stay the same. 0: none",
      "BRAID_ROUTER_DRAFT_TOKENS_MAX");
  add("--sequences-max", router.sequences_max, "sequences running at once", "BRAID_ROUTER_SEQUENCES_MAX");
  add("--queue-max", router.queue_max, "sequences waiting for memory; more are refused with a retry hint",
      "BRAID_ROUTER_QUEUE_MAX");
  add("--prefix-cache", router.prefix_cache, "sequences that begin alike share what is computed of that: true or false",
      "BRAID_ROUTER_PREFIX_CACHE");
  add("--snapshot-tokens", router.snapshot_tokens,
      "prompts that begin alike share what is computed up to the end of one, or every so many tokens before that",
      "BRAID_ROUTER_SNAPSHOT_TOKENS");
  AddMilliseconds(app, "--heartbeat-ms", router.heartbeat, "how often router and workers say that they live")
      ->envname("BRAID_ROUTER_HEARTBEAT_MS");
  AddMilliseconds(app, "--heartbeat-timeout-ms", router.heartbeat_timeout, "silence after which a worker is given up")
      ->envname("BRAID_ROUTER_HEARTBEAT_TIMEOUT_MS");
  AddMilliseconds(app, "--step-timeout-ms", router.step_timeout, "time after which a step that hangs is given up")
      ->envname("BRAID_ROUTER_STEP_TIMEOUT_MS");
  add("--metrics-host", flags.metrics_host, "address for /metrics, /livez and /readyz", "BRAID_ROUTER_METRICS_HOST");
  add("--metrics-port", flags.metrics_port, "port for them; 0 picks one, -1: none", "BRAID_ROUTER_METRICS_PORT");
  add("--drain-s", flags.drain_s, "seconds that running sequences get to finish after SIGTERM", "BRAID_ROUTER_DRAIN_S");
}

absl::Status Run(const Flags& flags, StopSignal& stop) {
  Metrics metrics;
  ASSIGN_OR_RETURN(std::unique_ptr<Router> router, Router::Start(flags.router, &metrics));
  spdlog::info("listening on {} (port {}); waiting for {} workers", flags.router.listen, router->port(),
               flags.router.workers);
  std::unique_ptr<MetricsEndpoint> endpoint;
  if (flags.metrics_port >= 0) {
    ASSIGN_OR_RETURN(endpoint, MetricsEndpoint::Start(&metrics, {.host = flags.metrics_host,
                                                                 .port = flags.metrics_port,
                                                                 .not_ready = [&] { return router->NotReady(); },
                                                                 .warning =
                                                                     [&] {
                                                                       const std::string what = router->Unprotected();
                                                                       return what.empty() ? ""
                                                                                           : "unprotected: " + what;
                                                                     }}));
    spdlog::info("metrics at http://{}:{}/metrics", flags.metrics_host, endpoint->port());
  }
  while (!stop.Wait(absl::Hours(1))) {
  }
  spdlog::info("draining, at most {} s", flags.drain_s);
  router->Shutdown(absl::Seconds(flags.drain_s));
  return absl::OkStatus();
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) {
  braid::StopSignal stop;
  CLI::App app("braid-router: schedules the sequences of a Braid cluster over its expert workers");
  braid::Flags flags;
  braid::AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  braid::InitLogging("router");
  absl::Status status = braid::Run(flags, stop);
  if (status.ok()) return EXIT_SUCCESS;
  spdlog::error("{}", braid::StdView(status.message()));
  return EXIT_FAILURE;
}
