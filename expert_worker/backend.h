#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/epoch_experts.h"
#include "expert_worker/exchange/exchange.h"
#include "expert_worker/expert_ranks.h"
#include "expert_worker/worker_options.h"
#include "kernels/thread_pool.h"
#include "model/engine.h"
#include "model/model_file.h"
#include "model/sequence_states.h"

namespace braid {

// All of a worker that depends on what it computes on: the weights, the state of sequences, the engine, and an epoch's
// exchange and experts. Everything else of a worker (plans, sequences, sampling, the router) is the same for all. Its
// memory is planned and taken once, at start. Two threads use it, one that runs steps and one that sets up the next
// epoch meanwhile, as said below; destroyed when both are gone, and with them all that was made here.
class Backend {
 public:
  virtual ~Backend() = default;

  // Of the thread that runs steps. The engine takes the runner of the EpochExperts made here, and chunks whose caches
  // are numbers into these states.
  virtual SequenceStates& states() = 0;
  virtual Engine& engine() = 0;

  // Of the thread that sets up. MakeExperts and message_bytes_max: see EpochMember::Shared. LoadExperts brings the
  // experts that are placed at `rank` to where the engine computes, `placement` being by MoE layer, at most as many as
  // ExpertSlots; they stay while somebody has the hold, those of the epoch before among them. kCancelled once `stop`
  // says true. MakeExperts makes the experts of an epoch for which LoadExperts was called last.
  virtual ExchangeFactory& exchanges() = 0;
  virtual size_t message_bytes_max() const = 0;
  virtual int ranks_max() const = 0;  // of an epoch that there is memory for; 0: any number
  virtual absl::StatusOr<ExpertHold> LoadExperts(std::span<const ExpertRanks> placement, int rank,
                                                 const std::function<bool()>& stop) = 0;
  virtual absl::StatusOr<std::unique_ptr<EpochExperts>> MakeExperts(Exchange* exchange, EpochPlace place) = 0;
  // An error if what this computes on has failed: nothing will work any more in this process. Thread-safe.
  virtual absl::Status CheckDevice() const { return absl::OkStatus(); }
};

// What a backend is made of; all pointers outlive it. The options have been checked; `device` is what they choose.
struct BackendParts {
  const ModelFile* model = nullptr;
  const WorkerOptions* options = nullptr;
  ComputeDevice device;
  ThreadPool* pool = nullptr;   // of the thread that runs steps
  std::vector<TokenId> masked;  // ids that are never sampled
  std::function<bool()> stop;   // asked often; true: loading ends early, with kCancelled
};

// Returns once the weights are there, but for experts that are yet to be placed. kResourceExhausted with needed and
// available bytes if memory is short; errors of CheckPresent.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendParts& parts);

}  // namespace braid
