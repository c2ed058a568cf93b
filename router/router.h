#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "monitoring/metrics.h"

namespace grpc {
class Channel;
}

namespace braid {

// A whole router: scheduler, membership and step driver behind gRPC (braid.v1.Router for gateways,
// braid.v1.WorkerControl for workers), health and reflection. It reads no model file: what it must know comes with the
// workers' Hello.
struct RouterOptions {
  std::string listen = "127.0.0.1:0";  // host:port; port 0 picks one; empty: in-process channels only
  int workers = 1;                     // a group begins to serve when this many are attached; then it goes on with
                                       // those that are left, and takes in those that come
  int workers_max = 0;                 // in one group; further ones stand by. 0: no limit
  int groups = 0;                      // that workers without a group of their own are spread over, those of one
                                       // host together. 0: one, or as many as there are hosts with GPUs
  int replica_experts = 2;             // per layer: hot experts that a worker may hold beyond its even share
  int rebalance_experts = 2;           // per layer: experts that one rebalancing may move or replicate
  absl::Duration rebalance_interval = absl::Seconds(30);  // at most this often; infinite: never
  int step_tokens = 512;                                  // rows of one step over all workers
  int chunk_tokens = 256;                                 // longest prefill chunk of one sequence in a step
  int draft_tokens_max = 8;                               // guesses of one sequence in a step, where they pay; 0: never
  int sequences_max = 256;                                // running at once
  int queue_max = 1024;                                   // waiting for memory; beyond it RESOURCE_EXHAUSTED
  bool prefix_cache = true;                               // sequences go on from what others have computed:
  int snapshot_tokens = 256;                              // at the end of prompts, and every so many inside of them
  absl::Duration heartbeat = absl::Milliseconds(500);
  absl::Duration heartbeat_timeout = absl::Seconds(2);
  absl::Duration step_timeout = absl::Seconds(120);
};

class Router {
 public:
  // kUnavailable if the address cannot be bound, kInvalidArgument naming an option. `metrics` must outlive the router.
  static absl::StatusOr<std::unique_ptr<Router>> Start(const RouterOptions& options, Metrics* metrics);
  virtual ~Router() = default;  // Shutdown(0) if it was not called

  virtual int port() const = 0;  // 0 without a listening address
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;
  // Empty string when ready, else why not ("waiting for 1 of 2 workers", "draining").
  virtual std::string NotReady() const = 0;
  // Empty string while the loss of any one worker would be only a pause, else what it would cost.
  virtual std::string Unprotected() const = 0;
  // Refuses new work at once (UNAVAILABLE), lets running sequences finish until `grace` has passed, then ends.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace braid
