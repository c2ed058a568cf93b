#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/epoch_experts.h"
#include "expert_worker/exchange/exchange.h"
#include "expert_worker/expert_ranks.h"
#include "expert_worker/worker_protocol.h"
#include "model/config.h"

namespace braid {

// This worker's part in one epoch: the exchange with its peers, and the experts that are run over it. Used by one
// thread at a time, first the one that sets it up, then the one that runs steps, except where it says thread-safe.
class EpochMember {
 public:
  // What the epochs of a worker share. All pointers must outlive them.
  struct Shared {
    const ModelConfig* config = nullptr;
    ExchangeFactory* exchanges = nullptr;  // of the thread that sets up
    MakeEpochExperts make_experts;         // of the same thread, for what `exchanges` makes
    size_t message_bytes_max = 0;          // of ExchangeOptions: what the experts need for step_tokens_max rows
    // Brings the experts that are placed at `rank` into memory, unless `stop` says true before; they stay while the
    // epoch does. Called by the thread that sets up.
    std::function<absl::StatusOr<ExpertHold>(std::span<const ExpertRanks> placement, int rank,
                                             const std::function<bool()>& stop)>
        load_experts;
    // Of a worker whose device may fail for good, else null. Asked after an error of an epoch's set-up (Backend) and of
    // a step (Engine, once its exchange has been aborted), on the thread that has found it.
    std::function<absl::Status()> check_device, recover;
    std::function<void(const absl::Status& why)> give_up;  // it has failed. Need not return
    int step_tokens_max = 1024;
    absl::Duration exchange_timeout = absl::Seconds(30);
  };

  // `shared` must outlive *this.
  EpochMember(const Shared* shared, const WorkerProtocol::OpenExchange& open) : shared_(*shared), open_(open) {}

  // Opens this worker's end; returns its address, empty for a rank that is alone. Errors of ExchangeFactory.
  absl::StatusOr<std::string> Open();
  // Reaches the peers and reads in the experts placed here: from then on `experts` can be used. Errors of Exchange, of
  // load_experts and of make_experts. REQUIRES: Open. WorkerProtocol has checked the placement.
  absl::Status Connect(const v1::Configure& configure);
  // REQUIRES: Connect.
  EpochExperts& experts() { return *experts_; }

  // The ranks that a failure may be the fault of.
  std::vector<int> suspects() const;

  // The epoch is over, for whatever reason: wakes who waits in it, and makes all that comes fail. Thread-safe, returns
  // at once.
  void Abandon(const std::string& reason);
  // Thread-safe, as are these.
  bool abandoned() const;
  ExchangeProgress progress() const;

 private:
  const Shared& shared_;
  const WorkerProtocol::OpenExchange open_;

  mutable absl::Mutex mutex_;
  std::optional<std::string> abandoned_ ABSL_GUARDED_BY(mutex_);  // why
  // Set once, by Open, under the lock: whoever uses *this reads it without, the others with it.
  std::unique_ptr<Exchange> exchange_;

  // Behind exchange_, which they use, and which may take its time to close: the room of these experts is for others by
  // then.
  ExpertHold hold_;
  std::unique_ptr<EpochExperts> experts_;
};

}  // namespace braid
