#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/exchange/exchange.h"
#include "expert_worker/expert_ranks.h"
#include "model/experts.h"

namespace braid {

// What keeps experts in memory. Any thread may let go of it.
using ExpertHold = std::shared_ptr<const void>;

// The experts of one epoch, as whoever runs steps of it has them: spread over its ranks, run over its exchange. Used by
// one thread at a time. (Not itself an ExpertRunner: those of devices have a base of their own.)
class EpochExperts {
 public:
  virtual ~EpochExperts() = default;

  // What a step is given. Errors of Exchange; kDataLoss if a peer's message makes no sense. After an error only a new
  // epoch helps.
  virtual ExpertRunner& runner() = 0;
  // `step` is what peers call what follows. No rank has more than `rows_max` rows in it; equal on all ranks, who agree
  // by it on what they send.
  virtual void BeginStep(uint64_t step, int rows_max) = 0;
  // Whether a step of so many rows can be begun while the one before it is not over: whether no host has to wait on the
  // way, and if that one had to be run again, all ranks would come to this one alike. A rank need not, though it can.
  virtual bool CanBeginAhead(int rows_max) const = 0;
  // The ranks that an error of the runner may be the fault of.
  virtual std::vector<int> suspects() const = 0;
  // Rows computed here since the last call, for all ranks: (moe_layers, E); resets.
  virtual std::vector<uint64_t> TakeExpertRows() = 0;
  // What the steps that have ended since the last call spent waiting for peers and for bytes to move; resets. Hosts
  // count the time of the thread that runs steps, devices that of their stream, which may run ahead of the host.
  virtual absl::Duration TakeExchangeTime() = 0;
  // Steps since the last call that were run twice, as their messages did not fit at first; resets.
  virtual int TakeRunsAgain() { return 0; }
};

// A worker's place in an epoch.
struct EpochPlace {
  int rank = 0;
  int size = 1;
  int step_tokens_max = 0;             // rows of one layer, equal on all ranks
  std::vector<ExpertRanks> placement;  // by MoE layer, the same on all ranks
};

// Makes the experts of an epoch. `exchange` is connected, of the kind that the worker's ExchangeFactory makes, and
// outlives them; null for one rank alone. Called by the thread that sets up, beside steps of the epoch before.
using MakeEpochExperts =
    std::function<absl::StatusOr<std::unique_ptr<EpochExperts>>(Exchange* exchange, EpochPlace place)>;

}  // namespace braid
