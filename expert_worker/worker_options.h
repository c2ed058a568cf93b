#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace grpc {
class Channel;
}

namespace braid {

struct ModelConfig;

struct WorkerOptions {
  std::string router = "127.0.0.1:7070";   // used if `channel` is null
  std::shared_ptr<grpc::Channel> channel;  // in-process
  std::string name;                        // default host:pid
  std::string group;                       // workers that name the same one belong together; empty: the router chooses
  std::string device = "cpu";              // or "cuda", "cuda:1"; see ComputeDevice
  std::string precision;                   // of activations on a GPU: "bf16", the default, "fp8" or "float32"
  bool exact = true;                       // false: a GPU may round a row by what it is computed with
  std::string weights = "auto";            // on a GPU: as in the file, or "fp8"
  std::string exchange;  // "ucx", "nccl" between GPUs; empty: the device's. "inprocess": peers are threads of this
                         // process (braid serve, tests)
  // Between GPUs: steps in which some worker has at least so many rows go in halves, the exchange of one beside the
  // computing of the other. 0: none do. Equal on all workers.
  int overlap_rows = 0;
  // Of a group, this one among them. A GPU's memory is planned for so many, several GB of it NCCL's; CPUs plan nothing.
  // 0: 16 GPUs, any number of CPUs.
  int ranks_max = 0;
  int threads = 0;               // 0: one per core this process may use
  uint64_t kv_bytes = 0;         // 0: a quarter of free memory, at most what 64 full contexts need
  std::string kv_type = "bf16";  // or "int8", see KvType; equal on all workers
  int step_tokens_max = 1024;    // rows one step may have here
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

int ComputeThreads(const WorkerOptions& options);
// How many experts such a worker has memory for, over all layers of the model; at most all of them.
int ExpertSlots(const WorkerOptions& options, const ModelConfig& config);
// How many snapshots of the prefix cache.
int SnapshotsMax(const WorkerOptions& options, const ModelConfig& config);

}  // namespace braid
