#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/child_process.h"
#include "expert_worker/worker.h"
#include "gateway/gateway.h"
#include "model/model_file.h"
#include "monitoring/metrics.h"
#include "router/router.h"

namespace braid {

struct LocalStackOptions {
  std::string model_path;
  int workers = 0;  // 0: one worker in this process; else so many worker processes
  int threads = 0;  // compute threads over all workers; 0: one per core
  std::string device = "cpu";  // see WorkerOptions; with worker processes "cuda" is cuda:0, cuda:1, .. in their order
  std::string precision;
  bool exact = true;
  std::string weights = "auto";
  int overlap_rows = 0;
  std::string kv_type = "bf16";
  uint64_t kv_bytes = 0;
  int draft_tokens_max = RouterOptions{}.draft_tokens_max;
  int answer_tokens_default = GatewayOptions{}.answer_tokens_default;
  std::string host = "127.0.0.1";
  int http_port = 8000;
  int grpc_port = 8001;
  std::string model_name, api_key, audit_path;
  std::string share_prefixes = GatewayOptions{}.share_prefixes;
};

// Gateway, router and workers of one machine. With worker processes it is also their supervisor: one that ends is
// started again, and all of them end with this process.
class LocalStack {
 public:
  // The weights are loaded meanwhile, the gateway says so; `stop`, asked often, ends that early, maybe with kCancelled.
  static absl::StatusOr<std::unique_ptr<LocalStack>> Start(const LocalStackOptions& options,
                                                           const std::function<bool()>& stop);
  ~LocalStack();

  const Gateway& gateway() const { return *gateway_; }
  const ModelFile& model() const { return *model_; }

  // Restarts worker processes that have ended, at most one a second each. Call it regularly.
  void Supervise(absl::Time now);
  void Shutdown(absl::Duration grace);

 private:
  LocalStack() = default;
  // Of the worker process `index`, or the one worker here.
  std::string DeviceOf(size_t index) const;
  absl::Status CheckDevices() const;
  absl::Status StartRouter();
  absl::Status StartWorkers(const std::function<bool()>& stop);
  absl::Status StartGateway();
  absl::Status SpawnWorker(size_t index);

  LocalStackOptions options_;
  Metrics metrics_;
  std::unique_ptr<ModelFile> model_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<Worker> worker_;
  std::vector<std::unique_ptr<ChildProcess>> children_;
  std::vector<absl::Time> started_;
  std::unique_ptr<Gateway> gateway_;
};

// Where `--demo` finds the model that ships with Braid: $BRAID_DEMO_MODEL, the source tree this binary was built in, or
// ../share/braid/demo beside an installed one. kNotFound with the places looked at.
absl::StatusOr<std::string> FindDemoModel();

}  // namespace braid
