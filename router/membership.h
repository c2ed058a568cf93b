#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "base/planted_bug.h"
#include "braid/v1/worker.pb.h"
#include "router/actions.h"
#include "router/placement.h"
#include "router/router.h"

namespace braid {

// Who belongs to one group and which experts each member holds, decided here and nowhere else, by epochs. Two epochs
// live side by side: the one that serves and the next one, which is set up in the background:
//
//    next:     none --> preparing --all Prepared--> connecting --all Configured--> ready --Begin--> (serves)
//                ^------ a member lost, a fault, too late ------|
//    serving:  none --Begin--> beginning --all Begun--> running
//                ^------ a member lost, a fault, Stop ------|
//
// A worker that joins, one that leaves, and experts that move are all the same: a next epoch with other members or
// another placement, prepared while the serving one goes on, and one step boundary. After a loss there is nothing to go
// on with, so the survivors' next epoch is all that happens.
//
// Workers accuse, this decides. A fault convicts nobody: the same members try again after a pause that grows. Members
// that cannot reach each other (a set-up fails, a link is found to be cut) are another matter: the one that most others
// cannot reach sits out for a while, a newcomer before one that served, the higher rank if nothing else tells.
//
// No epoch is larger than its members have memory for: further workers stand by.
//
// Pure: time is an argument. Thread-compatible.
class Membership {
 public:
  static constexpr absl::Duration kPrepareTimeout = absl::Seconds(5);    // to open an endpoint
  static constexpr absl::Duration kConfigureTimeout = absl::Minutes(5);  // to read in experts, perhaps from a slow disk
  static constexpr absl::Duration kRetryMin = absl::Milliseconds(100);
  static constexpr absl::Duration kRetryMax = absl::Seconds(5);
  static constexpr absl::Duration kBenchMin = absl::Seconds(1);
  static constexpr absl::Duration kBenchMax = absl::Seconds(60);
  // Accusations of one failure come in within this time; then it is judged.
  static constexpr absl::Duration kJudgeDelay = absl::Milliseconds(250);
  // How long the sequences of a worker that leaves get to end there; then they go on elsewhere, prefilled again.
  static constexpr absl::Duration kLeavePatience = absl::Seconds(10);
  // After its router has restarted, a group that has served before waits this long for all to come back.
  static constexpr absl::Duration kRejoinGrace = absl::Seconds(2);

  struct Member {
    WorkerId id;
    v1::Hello hello;
  };
  struct View {  // the members of an epoch, by rank
    Epoch epoch;
    std::vector<Member> members;
    Placement placement;
    std::optional<int> RankOf(WorkerId worker) const;
    std::vector<WorkerId> ids() const;
  };
  // Why the serving epoch ended, if it did.
  enum class Loss {
    kFault,  // a member could not go on, has left, or was sent away
    kCrash,  // a member's process is likely to be dead, or stuck in a step
  };

  // Epoch numbers are taken from `last_epoch`, which all groups share and which starts above those of any earlier
  // router. Decisions are appended to `actions`. Both must outlive *this.
  Membership(std::string name, const RouterOptions& options, Epoch* last_epoch, std::vector<Action>* actions);

  void OnJoined(WorkerId worker, const v1::Hello& hello, absl::Time now);
  // An error means that the worker broke the protocol: close it.
  absl::Status OnPrepared(WorkerId worker, const v1::Prepared& prepared);
  absl::Status OnConfigured(WorkerId worker, const v1::Configured& configured);
  absl::Status OnBegun(WorkerId worker, const v1::Begun& begun);
  void OnFault(WorkerId worker, const v1::Fault& fault, absl::Time now);
  // The worker wants to leave. It stays a member until it is drained, or kLeavePatience has passed.
  void OnLeaving(WorkerId worker, absl::Time now);
  // It owns no sequence any more.
  void OnDrained(WorkerId worker, absl::Time now);
  // The worker is gone: it will never say anything again. `crashed`: it looks like that, because its stream broke or it
  // did not come back from a step; not because we had a reason of our own to close its stream.
  void OnLost(WorkerId worker, bool crashed, absl::Time now);
  // Two members of the serving epoch that both live cannot reach each other.
  void OnCut(WorkerId one, WorkerId other, absl::Time now);
  // The epoch has completed a step.
  void OnProgress();

  // Another placement is wanted, see Rebalanced.
  void Rebalance() { rebalance_ = true; }
  // Sets up what is due. `load` as in PlacementProblem.
  void Advance(absl::Time now, std::span<const double> load);

  // Not null when the next epoch can begin: at once if none serves, else at a step boundary.
  const View* ready() const { return next_ && next_->stage == Stage::kReady ? &next_->view : nullptr; }
  // The next epoch serves from now on; `begins` by rank, without the epoch. REQUIRES: ready().
  void Begin(std::vector<v1::Begin> begins, absl::Time now);

  // The epoch that serves; steps may be sent once it is running(). nullptr if none serves.
  const View* serving() const { return serving_ ? &*serving_ : nullptr; }
  // Members that have been told to begin and have not done so for so long.
  std::vector<WorkerId> LateToBegin(absl::Duration timeout, absl::Time now) const;
  bool running() const { return serving_ && (beginning_.empty() || Planted(Bug::kStepsBeforeBegun)); }
  // How the last serving epoch ended; cleared by the call.
  std::optional<Loss> TakeLoss() { return std::exchange(loss_, std::nullopt); }
  // The name of the member that crashed, if one did.
  const std::string& crashed() const { return crashed_; }
  // The placement that Rebalance would lead to. REQUIRES: serving().
  std::optional<Placement> Rebalanced(std::span<const double> load) const;

  const std::string& name() const { return name_; }
  bool has(WorkerId worker) const { return members_.contains(worker); }
  int size() const { return static_cast<int>(members_.size()); }
  bool HasWorkerOn(const std::string& host) const;
  // Workers that may be let go: they leave, and no epoch needs them. `idle`: the group has nothing to do, so even the
  // last one may go.
  std::vector<WorkerId> Releasable(bool idle) const;
  // All that are left are leaving.
  bool dissolving() const { return serving_ && Candidates(absl::InfiniteFuture()).empty(); }
  bool leaving(WorkerId worker) const { return members_.at(worker).leave_at.has_value(); }
  // Why no epoch serves, or not for long, for people; empty if one does.
  std::string NotReady() const;
  // What the next loss of a worker would break, for people; empty if nothing.
  std::string Unprotected() const;

 private:
  enum class Stage { kPreparing, kConnecting, kReady };
  struct Candidate {
    v1::Hello hello;
    absl::Time joined;
    std::optional<absl::Time> leave_at;
    absl::Time benched_until = absl::InfinitePast();
    absl::Duration bench = kBenchMin;  // how long the next time
  };
  struct Next {
    View view;
    Stage stage = Stage::kPreparing;
    std::set<WorkerId> silent;  // have not answered the current round
    std::map<WorkerId, std::string> addresses;
    absl::Time deadline;
  };

  void Send(WorkerId worker, v1::AttachResponse message) {
    actions_->push_back(SendToWorker{worker, std::move(message)});
  }
  std::vector<WorkerId> Candidates(absl::Time now) const;
  // The members that an epoch set up now would have, in rank order; empty: not yet.
  std::vector<WorkerId> Wanted(absl::Time now) const;
  std::vector<WorkerId> Together(const std::vector<WorkerId>& ids) const;
  bool MayStart(const std::vector<WorkerId>& wanted, absl::Time now) const;
  PlacementProblem ProblemFor(const std::vector<WorkerId>& ids) const;
  std::optional<Placement> PlacementFor(const std::vector<WorkerId>& ids, std::span<const double> load) const;
  void StartNext(std::vector<WorkerId> ids, absl::Time now);
  void Connect(std::span<const double> load, absl::Time now);
  void StopServing(Loss loss);
  void Accuse(WorkerId accuser, WorkerId accused, absl::Time now);
  void Judge(absl::Time now);
  void Bench(WorkerId worker, absl::Time now);

  const std::string name_;
  const RouterOptions options_;
  Epoch* const last_epoch_;
  std::vector<Action>* const actions_;

  std::map<WorkerId, Candidate> members_;
  std::optional<View> serving_;
  std::set<WorkerId> beginning_;  // members of serving_ that have not said Begun
  absl::Time begun_at_;           // when they were told
  std::optional<Next> next_;
  std::optional<Loss> loss_;
  std::string crashed_;
  Placement memory_;  // what members have in memory: the placement of the last epoch that served
  bool has_served_ = false;
  bool rebalance_ = false;

  std::map<WorkerId, std::set<WorkerId>> accusers_;  // by accused
  std::optional<absl::Time> judge_at_;
  int faults_ = 0;  // in steps, since the last progress
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration retry_delay_ = kRetryMin;
  std::string problem_;  // why the last attempt failed, for people
};

}  // namespace braid
