#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/router.pb.h"
#include "braid/v1/worker.pb.h"
#include "router/actions.h"
#include "router/membership.h"
#include "router/probe.h"
#include "router/router.h"
#include "router/scheduler.h"
#include "router/step.h"

namespace braid {

// The router without a rim: what gateways and workers say goes in, what to tell them comes out. Call the On... methods
// for a batch of inputs, then Advance once, then carry out TakeActions in order; also call Advance from time to time
// when nothing comes in. It joins three parts:
//
//    Membership   which workers form the group, and its epochs
//    Scheduler    which sequences run where, and what the next step computes
//    Step         the step in flight; committed when every member has reported it
//
// When an epoch is lost, its step never happened, and running sequences start again from their token logs in the next.
// Pure: time is an argument. Thread-compatible.
class RouterCore {
 public:
  // A sequence that was in this many steps whose epoch was lost is taken to be the cause, and ends. A worker that
  // leaves does so between steps and does not count.
  static constexpr int kFailuresMax = 2;
  // How long gateways are asked to wait when the queue is full (some requests end within this) or no group is ready.
  static constexpr absl::Duration kRetryWhenFull = absl::Seconds(1);
  static constexpr absl::Duration kRetryWhenNotReady = absl::Milliseconds(500);

  // `before`: see Membership. `probe` must outlive *this. REQUIRES: CheckOptions(options).ok().
  RouterCore(const RouterOptions& options, Epoch before, RouterProbe* probe);

  // The first action for `id` is `accepted` or its end. REQUIRES: an id never seen before.
  void OnGenerate(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time now);
  // Nothing more is said about the sequence. Unknown ids are ignored.
  void OnCancel(SequenceId id);

  // `worker` ids are never used twice.
  void OnWorkerOpened(WorkerId worker, absl::Time now);
  // From here on a worker that was closed is unknown; messages of unknown workers are ignored.
  void OnWorkerMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now);
  void OnWorkerLost(WorkerId worker);

  // Accepts nothing new and lets go of what waits; what was accepted goes on.
  void Drain();
  // Ends every sequence with `status` and every worker's stream.
  void Stop(const absl::Status& status);

  void Advance(absl::Time now);
  std::vector<Action> TakeActions();

  bool idle() const { return scheduler_.running() + scheduler_.waiting() == 0; }
  // As for Router::NotReady.
  std::string NotReady() const;
  void FillStatus(v1::GetStatusResponse* status) const;

 private:
  absl::Status CheckAdmissible(const v1::GenerateSequenceRequest& request) const;
  absl::Status Dispatch(WorkerId worker, const v1::AttachRequest& message, absl::Time now);
  absl::Status OnStepDone(WorkerId worker, const v1::StepDone& done, absl::Time now);
  // Brings scheduler and step in line with the membership's epoch.
  void FollowEpoch();
  void LoseEpoch();
  void BeginEpoch();
  void Admit(absl::Time now);
  void IssueStep(absl::Time now);
  void GiveUpLateStep(absl::Time now);

  void Commit(absl::Time now);
  absl::Status CheckScores(const v1::StepDone& done) const;
  void DeliverScores(const v1::PromptScores& scores);
  void DeliverToken(const v1::Sampled& sampled);
  void Observe(const Step& step, absl::Time now);

  void Say(SequenceId id, v1::GenerateSequenceResponse event);
  void Accept(Sequence& sequence);
  void Finish(SequenceId id, v1::SequenceFinished::Reason reason);
  // REQUIRES: an error. The sequence is forgotten.
  void Fail(SequenceId id, absl::Status status, absl::Duration retry_after = absl::ZeroDuration());
  void UpdateGauges();

  const RouterOptions options_;
  RouterProbe* const probe_;
  std::vector<Action> actions_;
  Membership membership_;
  Scheduler scheduler_;
  std::optional<Step> step_;
  uint64_t step_number_ = 0;        // of the last step issued in this epoch
  std::optional<v1::Hello> model_;  // what the members of the last epoch agreed on
  bool draining_ = false;
  bool stopped_ = false;
  ExpertImbalance imbalance_;
};

}  // namespace braid
