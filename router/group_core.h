#pragma once

#include <deque>
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
#include "router/expert_load.h"
#include "router/link_watch.h"
#include "router/membership.h"
#include "router/probe.h"
#include "router/roster.h"
#include "router/router.h"
#include "router/scheduler.h"
#include "router/step.h"

namespace braid {

// One group at work. It joins three parts:
//
//    Membership   which workers form the group, and its epochs
//    Scheduler    which sequences run where, and what the next step computes
//    Step         the step in flight; committed when every member has reported it
//
// Workers need not wait for the router between two steps while answers are written: shortly before a step should be
// done, if the next one is known but for the tokens that this one chooses, its plan is sent. So at most two steps are
// in flight. Not before that, since what comes meanwhile, a prompt above all, is to be in the next step, not in the one
// behind it.
//
// When an epoch is lost its steps in flight never happened: running sequences go on from their last committed token
// with the workers that hold their state, in the next epoch; those whose owner is gone come out (TakeDisplaced).
//
// Pure: time is an argument. Thread-compatible.
class GroupCore {
 public:
  // See Membership for the pointers; all must outlive *this.
  GroupCore(std::string name, const RouterOptions& options, Epoch* last_epoch, RouterProbe* probe,
            std::vector<Action>* actions);

  void OnJoined(WorkerId worker, const v1::Hello& hello, absl::Time now) { membership_.OnJoined(worker, hello, now); }
  void OnLeaving(WorkerId worker, absl::Time now);
  // The worker is gone. Unknown ones are ignored.
  void OnLost(WorkerId worker, bool crashed, absl::Time now);  // as in Membership
  // Prepared, Configured, Begun, StepDone or Fault. An error means that the worker broke the protocol: close it.
  absl::Status OnMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now);

  // Issues what is due: set-ups, the next epoch. `roster` knows how far each worker is.
  void Advance(const Roster& roster, absl::Time now);
  // The next step, if there is something to do and none is in flight; or the one behind that, if it is time.
  void IssueStep(absl::Time now);
  // When IssueStep should be called though nothing has happened.
  absl::Time WakeAt() const { return look_ahead_at_; }
  // Workers that have not come back from their step for too long, or from the one before an epoch.
  std::vector<WorkerId> Late(absl::Time now) const;
  // Workers that may be let go, see Membership.
  std::vector<WorkerId> Releasable() const {
    return membership_.Releasable(scheduler_.running() == 0 && steps_.empty());
  }
  // Sequences that have lost their state here and are to be admitted anew, wherever.
  Scheduler::Sequences TakeDisplaced() { return std::exchange(displaced_, {}); }
  // Sequences that are on trial for crashing workers from now on.
  std::vector<SequenceId> TakeAccused() { return std::exchange(accused_, {}); }
  // The group has not served for a while: its sequences go elsewhere, prefilled again.
  void GiveUpSequences();

  // nullopt if the sequence has no room here now.
  struct Fit {
    int load = 0;           // running sequences
    int cached_tokens = 0;  // of this one, that need not be computed here
  };
  std::optional<Fit> FitFor(const Sequence& sequence) const;
  // Whether it would have room if nothing else ran.
  bool CouldHold(const Sequence& sequence) const;
  // REQUIRES: FitFor(*sequence).
  void Admit(std::unique_ptr<Sequence> sequence);
  Sequence* Find(SequenceId id) const { return scheduler_.Find(id); }
  std::unique_ptr<Sequence> Remove(SequenceId id) { return scheduler_.Remove(id); }

  const Membership& membership() const { return membership_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const ExpertLoad& expert_load() const { return load_; }
  bool serving() const { return membership_.serving() != nullptr; }
  // Since when it does not serve; infinite past if it never did.
  absl::Time stopped_at() const { return stopped_at_; }

 private:
  absl::Status OnStepDone(WorkerId worker, const v1::StepDone& done, absl::Time now);
  absl::Status OnBegun(WorkerId worker, const v1::Begun& begun);
  absl::Status CheckScores(const v1::StepDone& done) const;
  void FollowLoss(absl::Time now);
  void Suspect(const std::deque<Step>& steps, const Suspicion::Crash& crash, absl::Time now);
  void WatchLinks(const Roster& roster, absl::Time now);
  void DrainLeaving(absl::Time now);
  void BeginEpoch(absl::Time now);
  void PlanRebalance(absl::Time now);

  // One step is in flight, and could begin just now.
  void ScheduleLookAhead();
  void Send(std::vector<v1::StepPlan> plans, absl::Time now);

  // REQUIRES: the first step in flight is complete.
  void Commit(absl::Time now);
  void DeliverScores(const v1::PromptScores& scores);
  void DeliverToken(const v1::Sampled& sampled);
  void Observe(const Step& step, absl::Time now);
  void Say(SequenceId id, v1::GenerateSequenceResponse event);
  // REQUIRES: an error. The sequence is forgotten.
  void Fail(SequenceId id, absl::Status status);

  const RouterOptions options_;
  RouterProbe* const probe_;
  std::vector<Action>* const actions_;
  Membership membership_;
  Scheduler scheduler_;
  std::deque<Step> steps_;                             // in flight, in their order; two at most
  absl::Time look_ahead_at_ = absl::InfiniteFuture();  // to plan the second of them
  double ahead_share_ = 0.125;                         // of a step's time, see ScheduleLookAhead
  uint64_t step_number_ = 0;                           // of the last step issued in this epoch
  Scheduler::Sequences displaced_;
  std::vector<SequenceId> accused_;
  ExpertLoad load_;
  LinkWatch links_;
  absl::Time looked_at_links_ = absl::InfinitePast();
  absl::Time rebalanced_at_ = absl::InfinitePast();
  absl::Time stopped_at_ = absl::InfinitePast();
  absl::Time paused_at_ = absl::InfinitePast();  // since when no step could be issued, for want of an epoch that runs
};

// Tells the sequence's gateway that it is accepted.
void Accept(Sequence& sequence, std::vector<Action>* actions);
// Tells it why no more tokens follow. The caller forgets the sequence.
void Finish(SequenceId id, v1::SequenceFinished::Reason reason, RouterProbe* probe, std::vector<Action>* actions);

}  // namespace braid
