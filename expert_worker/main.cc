// braid-expert-worker: holds sequences and experts, runs the steps that the router plans.

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "base/logging.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/worker.h"
#include "model/model_file.h"
#include "monitoring/http_endpoint.h"
#include "monitoring/metrics.h"

namespace braid {
namespace {

struct Flags {
  std::string model;
  WorkerOptions worker;
  int exchange_timeout_ms = 30000;
  int exchange_spin_us = 0;
  std::string metrics_host = "127.0.0.1";
  int metrics_port = 0;
  int drain_s = 30;
  bool exit_with_parent = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  WorkerOptions& worker = flags.worker;
  auto add = [&app](const char* name, auto& value, const char* help, const char* variable) {
    return app.add_option(name, value, help)->capture_default_str()->envname(variable);
  };
  add("--model", flags.model, "a .gguf file or a Hugging Face directory", "BRAID_MODEL")->required();
  add("--router", worker.router, "host:port of the router", "BRAID_WORKER_ROUTER");
  add("--name", worker.name, "what people call this worker; default host:pid", "BRAID_WORKER_NAME");
  add("--group", worker.group, "workers that name the same group belong together; empty: the router chooses",
      "BRAID_WORKER_GROUP");
  add("--device", worker.device, "what computes: cpu, cuda (the first GPU) or cuda:N", "BRAID_WORKER_DEVICE");
  add("--precision", worker.precision,
      "of activations on a GPU: bf16; fp8, which is --weights fp8 and rounds alike what those weights are multiplied "
      "by, on GPUs of compute capability 8.9 or later; or float32, to compare with the CPU; empty: bf16, equal on all "
      "workers",
      "BRAID_WORKER_PRECISION");
  app.add_flag(
         "--exact,!--fast", worker.exact,
         "on a GPU: the bits of an answer do not depend on what it is computed with (--exact, the default), or may "
         "(--fast); equal on all workers")
      ->envname("BRAID_WORKER_EXACT");
  add("--weights", worker.weights,
      "on a GPU: as in the model's file, or fp8, half the bytes of those that are in floats there, at some distance "
      "from the model; equal on all workers",
      "BRAID_WORKER_WEIGHTS")
      ->check(CLI::IsMember({"auto", "fp8"}));
  add("--threads", worker.threads, "threads that compute; 0: one per core of this process", "BRAID_WORKER_THREADS");
  add("--kv-bytes", worker.kv_bytes, "memory for the KV cache, e.g. 2G; 0: a quarter of what is free",
      "BRAID_WORKER_KV_BYTES")
      ->transform(CLI::AsSizeValue(false));
  add("--kv-type", worker.kv_type,
      "how keys and values are kept: int8 takes half the memory of bf16, at some distance from the model; equal on all "
      "workers",
      "BRAID_WORKER_KV_TYPE")
      ->check(CLI::IsMember({"bf16", "int8"}));
  add("--step-tokens-max", worker.step_tokens_max, "rows one step may have here; equal on all workers",
      "BRAID_WORKER_STEP_TOKENS_MAX");
  add("--sequences-max", worker.sequences_max, "sequences held at once", "BRAID_WORKER_SEQUENCES_MAX");
  add("--snapshots-max", worker.snapshots_max,
      "beginnings of sequences kept for those that begin alike, beyond their KV blocks (295 KB each for LFM2-8B-A1B); "
      "0: none, -1: what 64 MiB hold",
      "BRAID_WORKER_SNAPSHOTS_MAX")
      ->check(CLI::Range(-1, 1 << 20));
  add("--expert-slots", worker.expert_slots,
      "experts there is memory for, counted over all layers; with fewer than all, experts are read in when the router "
      "places them here; 0: all",
      "BRAID_WORKER_EXPERT_SLOTS")
      ->check(CLI::NonNegativeNumber);
  add("--exchange", worker.exchange,
      "how workers exchange hidden states: ucx, or nccl between GPUs; empty: the device's", "BRAID_WORKER_EXCHANGE")
      ->check(CLI::IsMember({"", "ucx", "nccl", "inprocess"}));
  add("--overlap-rows", worker.overlap_rows,
      "between GPUs: steps in which some worker has at least so many rows go in halves, the exchange of one beside the "
      "computing of the other, to the same bits; 512 is where that may begin to pay, 0: none do; equal on all workers",
      "BRAID_WORKER_OVERLAP_ROWS")
      ->check(CLI::Range(0, 1 << 16));
  add("--ranks-max", worker.ranks_max,
      "workers of this one's group at most, itself among them; a GPU's memory is planned for so many, 1 leaves all of "
      "it to keys and values; 0: 16 GPUs, any number of CPUs",
      "BRAID_WORKER_RANKS_MAX")
      ->check(CLI::Range(0, 4096));
  add("--exchange-timeout-ms", flags.exchange_timeout_ms, "silence of a peer inside a step that is a fault",
      "BRAID_WORKER_EXCHANGE_TIMEOUT_MS")
      ->check(CLI::PositiveNumber);
  add("--exchange-spin-us", flags.exchange_spin_us,
      "polling for peers before sleeping; good only if every worker of this machine has its own cores",
      "BRAID_WORKER_EXCHANGE_SPIN_US")
      ->check(CLI::Range(0, 10000));
  add("--ucx-transports", worker.ucx_transports, "what UCX may use: tcp, posix, self, rc, ...",
      "BRAID_WORKER_UCX_TRANSPORTS");
  app.add_flag("--expert-metrics", worker.expert_metrics, "one series per expert")
      ->envname("BRAID_WORKER_EXPERT_METRICS");
  add("--metrics-host", flags.metrics_host, "address for /metrics, /livez and /readyz", "BRAID_WORKER_METRICS_HOST");
  add("--metrics-port", flags.metrics_port, "port for them; 0 picks one, -1: none", "BRAID_WORKER_METRICS_PORT");
  app.add_flag("--exit-with-parent", flags.exit_with_parent, "leave when the process that started this one ends");
  add("--drain-s", flags.drain_s, "seconds that the router gets to let go after SIGTERM", "BRAID_WORKER_DRAIN_S");
}

// Waits for SIGTERM or SIGINT, or for the parent's death if that is to end this process, too. Asked for once in a while
// instead of PR_SET_PDEATHSIG, which fires when the *thread* that started this process ends.
void WaitForTheEnd(bool exit_with_parent, pid_t parent, StopSignal& stop) {
  const absl::Duration tick = exit_with_parent ? absl::Milliseconds(500) : absl::Hours(1);
  while (!stop.Wait(tick)) {
    if (exit_with_parent && getppid() != parent) return;
  }
}

absl::StatusOr<std::unique_ptr<ModelFile>> OpenModel(const std::string& path) {
  const absl::Time start = absl::Now();
  spdlog::info("loading {}", path);
  ASSIGN_OR_RETURN(std::unique_ptr<ModelFile> model, ModelFile::Open(path));
  spdlog::info("{}: {} MiB of weights, {} layers, {} experts, mapped in {} ms", model->config().name,
               model->weight_bytes() >> 20, model->config().layer_count(), model->config().experts,
               absl::ToInt64Milliseconds(absl::Now() - start));
  return model;
}

absl::Status Run(Flags flags, StopSignal& stop) {
  const pid_t parent = getppid();
  flags.worker.exchange_timeout = absl::Milliseconds(flags.exchange_timeout_ms);
  flags.worker.exchange_spin = absl::Microseconds(flags.exchange_spin_us);
  ASSIGN_OR_RETURN(const ComputeDevice device, ChooseDevice(flags.worker));
  RETURN_IF_ERROR(CheckPresent(device));  // ahead of anything slow
  Metrics metrics;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, OpenModel(flags.model));
  std::unique_ptr<Worker> worker;
  std::atomic<bool> loaded = false;
  std::unique_ptr<MetricsEndpoint> endpoint;  // before the weights: a slow disk is no reason to call this process dead
  if (flags.metrics_port >= 0) {
    const auto not_ready = [&] { return loaded ? worker->NotReady() : std::string("loading the weights"); };
    ASSIGN_OR_RETURN(endpoint,
                     MetricsEndpoint::Start(
                         &metrics, {.host = flags.metrics_host, .port = flags.metrics_port, .not_ready = not_ready}));
    spdlog::info("metrics at http://{}:{}/metrics", flags.metrics_host, endpoint->port());
  }
  auto started =
      Worker::Start(model.get(), flags.worker, &metrics, [&stop] { return stop.Wait(absl::ZeroDuration()); });
  if (absl::IsCancelled(started.status())) return absl::OkStatus();
  ASSIGN_OR_RETURN(worker, std::move(started));
  loaded = true;
  WaitForTheEnd(flags.exit_with_parent, parent, stop);
  spdlog::info("leaving, at most {} s", flags.drain_s);
  worker->Shutdown(absl::Seconds(flags.drain_s));
  return absl::OkStatus();
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) {
  braid::StopSignal stop;
  braid::InitLogging("worker");
  CLI::App app{"Braid expert worker: runs the steps that the router plans, exchanges hidden states with its peers."};
  braid::Flags flags;
  braid::AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  if (const absl::Status status = braid::Run(flags, stop); !status.ok()) {
    spdlog::error("{}", status.ToString());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
