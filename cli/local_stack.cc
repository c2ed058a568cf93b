#include "cli/local_stack.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "base/logging.h"
#include "base/status.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/load_weights.h"

namespace braid {
namespace {

constexpr absl::Duration kRestartPause = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<LocalStack>> LocalStack::Start(const LocalStackOptions& options,
                                                              const std::function<bool()>& stop) {
  std::unique_ptr<LocalStack> stack(new LocalStack());
  stack->options_ = options;
  RETURN_IF_ERROR(stack->CheckDevices());
  ASSIGN_OR_RETURN(stack->model_, ModelFile::Open(options.model_path));
  RETURN_IF_ERROR(stack->StartRouter());
  RETURN_IF_ERROR(stack->StartGateway());  // before the workers: it says "loading" while they load
  RETURN_IF_ERROR(stack->StartWorkers(stop));
  return stack;
}

LocalStack::~LocalStack() { Shutdown(absl::ZeroDuration()); }

std::string LocalStack::DeviceOf(size_t index) const {
  return options_.workers > 0 && options_.device == "cuda" ? "cuda:" + std::to_string(index) : options_.device;
}

absl::Status LocalStack::CheckDevices() const {
  if (options_.workers > 1 && options_.device.compare(0, 5, "cuda:") == 0) {
    return InvalidArgument("--device " + options_.device + " with --workers " + std::to_string(options_.workers) +
                           ": each worker has a GPU of its own, say --device cuda");
  }
  for (size_t i = 0; i < static_cast<size_t>(std::max(1, options_.workers)); ++i) {
    WorkerOptions worker;
    worker.device = DeviceOf(i);
    worker.precision = options_.precision;
    worker.exact = options_.exact;
    worker.weights = options_.weights;
    worker.overlap_rows = options_.overlap_rows;
    worker.kv_type = options_.kv_type;
    ASSIGN_OR_RETURN(const ComputeDevice device, ChooseDevice(worker));
    RETURN_IF_ERROR(CheckPresent(device));
  }
  return absl::OkStatus();
}

absl::Status LocalStack::StartRouter() {
  RouterOptions router;
  router.workers = std::max(1, options_.workers);
  router.draft_tokens_max = options_.draft_tokens_max;
  router.listen = options_.workers > 0 ? "127.0.0.1:0" : "";
  ASSIGN_OR_RETURN(router_, Router::Start(router, &metrics_));
  return absl::OkStatus();
}

absl::Status LocalStack::StartGateway() {
  GatewayOptions gateway;
  gateway.channel = router_->InProcessChannel();
  gateway.host = options_.host;
  gateway.http_port = options_.http_port;
  gateway.grpc_port = options_.grpc_port;
  gateway.model_name = options_.model_name;
  gateway.api_key = options_.api_key;
  gateway.share_prefixes = options_.share_prefixes;
  gateway.audit_path = options_.audit_path;
  gateway.answer_tokens_default = options_.answer_tokens_default;
  ASSIGN_OR_RETURN(gateway_, Gateway::Start(model_.get(), gateway, &metrics_));
  return absl::OkStatus();
}

absl::Status LocalStack::StartWorkers(const std::function<bool()>& stop) {
  if (options_.workers > 0) {
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    RETURN_IF_ERROR(LoadWeights(*model_, cores, stop));  // once for all of them, who find the pages in memory
    children_.resize(static_cast<size_t>(options_.workers));
    started_.resize(children_.size());
    for (size_t i = 0; i < children_.size(); ++i) RETURN_IF_ERROR(SpawnWorker(i));
    return absl::OkStatus();
  }
  WorkerOptions worker;
  worker.channel = router_->InProcessChannel();
  worker.device = DeviceOf(0);
  worker.precision = options_.precision;
  worker.exact = options_.exact;
  worker.weights = options_.weights;
  worker.ranks_max = 1;
  if (worker.device == "cpu") worker.exchange = "inprocess";
  worker.threads = options_.threads;
  worker.kv_bytes = options_.kv_bytes;
  worker.kv_type = options_.kv_type;
  ASSIGN_OR_RETURN(worker_, Worker::Start(model_.get(), worker, &metrics_, stop));
  return absl::OkStatus();
}

absl::Status LocalStack::SpawnWorker(size_t index) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = std::max(1, (options_.threads > 0 ? options_.threads : cores) / options_.workers);
  std::vector<std::string> arguments = {"--model",
                                        options_.model_path,
                                        "--router",
                                        "127.0.0.1:" + std::to_string(router_->port()),
                                        "--name",
                                        "worker-" + std::to_string(index),
                                        "--threads",
                                        std::to_string(threads),
                                        "--device",
                                        DeviceOf(index),
                                        options_.exact ? "--exact" : "--fast",
                                        "--overlap-rows",
                                        std::to_string(options_.overlap_rows),
                                        "--weights",
                                        options_.weights,
                                        "--kv-type",
                                        options_.kv_type,
                                        "--exit-with-parent"};
  // More cannot come to GPUs of this machine.
  if (options_.device != "cpu") arguments.insert(arguments.end(), {"--ranks-max", std::to_string(options_.workers)});
  if (!options_.precision.empty()) {
    arguments.push_back("--precision");
    arguments.push_back(options_.precision);
  }
  if (options_.kv_bytes > 0) {
    arguments.push_back("--kv-bytes");
    arguments.push_back(std::to_string(options_.kv_bytes / static_cast<uint64_t>(options_.workers)));
  }
  ASSIGN_OR_RETURN(children_[index], ChildProcess::Spawn(ExecutableDirectory() + "/braid-expert-worker", arguments));
  started_[index] = absl::Now();
  return absl::OkStatus();
}

void LocalStack::Supervise(absl::Time now) {
  for (size_t i = 0; i < children_.size(); ++i) {
    if (children_[i]->Running() || now < started_[i] + kRestartPause) continue;
    spdlog::warn("worker-{} {}; starting it again", i, children_[i]->HowItEnded());
    const absl::Status status = SpawnWorker(i);
    if (!status.ok()) spdlog::error("{}", status.ToString());
  }
}

void LocalStack::Shutdown(absl::Duration grace) {
  if (gateway_) gateway_->Shutdown(grace);
  gateway_.reset();
  if (worker_) worker_->Shutdown(absl::Seconds(1));  // it leaves when its step is done
  worker_.reset();
  children_.clear();
  if (router_) router_->Shutdown(absl::ZeroDuration());
  router_.reset();
}

absl::StatusOr<std::string> FindDemoModel() {
  const char* variable = std::getenv("BRAID_DEMO_MODEL");
  const std::string here = ExecutableDirectory();
  std::string tried;
  for (const std::string& place :
       {std::string(variable ? variable : ""), here + "/../../../model/demo", here + "/../share/braid/demo"}) {
    if (place.empty()) continue;
    if (std::filesystem::exists(place + "/config.json")) return std::filesystem::weakly_canonical(place).string();
    tried += (tried.empty() ? "" : ", ") + place;
  }
  return absl::NotFoundError("the demo model is not at " + tried + "; set BRAID_DEMO_MODEL to its folder");
}

}  // namespace braid
