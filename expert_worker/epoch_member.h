#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/exchange/exchange.h"
#include "expert_worker/expert_parallel.h"
#include "expert_worker/probe.h"
#include "expert_worker/step_runner.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/experts.h"

namespace braid {

// This worker's part in one epoch after the other: takes the router's messages one at a time and says what to answer.
// Used by one thread, except Supersede.
class EpochMember {
 public:
  struct Options {
    int step_tokens_max = 1024;
    absl::Duration exchange_timeout = absl::Seconds(30);
  };
  // All pointers must outlive *this.
  EpochMember(const ModelConfig* config, StepRunner* runner, ExpertFfn* ffn, ThreadPool* pool,
              ExchangeFactory* exchanges, WorkerProbe* probe, Options options);
  ~EpochMember();

  // Prepare, Configure or StepPlan. Nothing is answered to a message of another epoch, or of one that has failed here.
  // `generation` only rises, with every Prepare and every Drop; see Supersede.
  std::optional<v1::AttachRequest> Handle(const v1::AttachResponse& message, uint64_t generation);

  // Leaves the epoch: forgets every sequence, closes the exchange.
  void Drop();

  // Whatever runs for a generation below this one is in vain: wakes it, and keeps what begins after from waiting.
  // Thread-safe, returns at once.
  void Supersede(uint64_t generation, const std::string& reason);

 private:
  absl::Status Prepare(const v1::Prepare& prepare, v1::Prepared* prepared);
  absl::Status Configure(const v1::Configure& configure);
  absl::Status RunStep(const v1::StepPlan& plan, v1::StepDone* done);
  v1::AttachRequest Fault(uint64_t step, const absl::Status& status);
  void SetExchange(std::unique_ptr<Exchange> exchange);
  std::unique_ptr<Exchange> TakeExchange();
  void ReportState();

  const ModelConfig* config_;
  StepRunner* runner_;
  ExpertFfn* ffn_;
  ThreadPool* pool_;
  ExchangeFactory* exchanges_;
  WorkerProbe* probe_;
  const Options options_;

  uint64_t epoch_ = 0;  // 0: none
  int rank_ = 0, size_ = 0;
  uint64_t step_ = 0;  // the last one run
  uint64_t generation_ = 0;
  std::unique_ptr<ExpertParallel> experts_;  // null until configured; uses exchange_

  absl::Mutex mutex_;
  // Only this object's thread changes it, so that thread reads it without the lock; Supersede takes the lock.
  std::unique_ptr<Exchange> exchange_;
  uint64_t exchange_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t superseded_below_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace braid
