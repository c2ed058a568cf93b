#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "monitoring/metrics.h"

namespace grpc {
class Channel;
}

namespace braid {

class ModelFile;
struct ModelConfig;

// A whole expert worker: attaches to the router, runs its steps, exchanges hidden states with its peers.
struct WorkerOptions {
  std::string router = "127.0.0.1:7070";   // used if `channel` is null
  std::shared_ptr<grpc::Channel> channel;  // in-process
  std::string name;                        // default host:pid
  std::string group;                       // workers that name the same one belong together; empty: the router chooses
  std::string exchange = "ucx";            // "inprocess": peers are threads of this process (braid serve, tests)
  int threads = 0;                         // 0: one per core this process may use
  uint64_t kv_bytes = 0;                   // 0: a quarter of free memory, at most what 64 full contexts need
  std::string kv_type = "bf16";            // or "int8", see KvType; equal on all workers
  int step_tokens_max = 1024;              // rows one step may have here
  int sequences_max = 256;
  int snapshots_max = -1;  // of the prefix cache, each with a conv state; 0: none, -1: what 64 MiB hold
  // Experts there is memory for here, counted over all layers; they are read in when they are placed here. 0: all, and
  // those of a file that need not be packed are read in at once.
  int expert_slots = 0;
  absl::Duration exchange_timeout = absl::Seconds(30);
  absl::Duration exchange_spin = absl::ZeroDuration();  // ucx polls this long before it sleeps
  std::string ucx_transports = "tcp,posix,self";
  bool expert_metrics = false;  // one series per expert, not only the imbalance
};

// How many experts such a worker has memory for, over all layers of the model; at most all of them.
int ExpertSlots(const WorkerOptions& options, const ModelConfig& config);

class Worker {
 public:
  // Loads the weights and returns once the model is ready to run; attaching goes on in the background and is retried
  // for ever. `model` and `metrics` must outlive the worker. `stop` is asked often: once it says true, loading ends
  // early, with kCancelled if there is no running without the rest. kResourceExhausted with needed and available bytes
  // if memory is short; errors of WorkerWeights (load_weights.h).
  static absl::StatusOr<std::unique_ptr<Worker>> Start(
      const ModelFile* model, const WorkerOptions& options, Metrics* metrics,
      const std::function<bool()>& stop = [] { return false; });
  virtual ~Worker() = default;

  // Empty string while in an epoch, else why not.
  virtual std::string NotReady() const = 0;
  // Says Leaving and waits for the router to let go, at most `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace braid
