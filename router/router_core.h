#pragma once

#include <map>
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
#include "router/group_core.h"
#include "router/probe.h"
#include "router/quarantine.h"
#include "router/queue.h"
#include "router/roster.h"
#include "router/router.h"

namespace braid {

// The router without a rim: what gateways and workers say goes in, what to tell them comes out. Call the On... methods
// for a batch of inputs, then Advance once, then carry out TakeActions (actions.h); also call Advance from time to time
// when nothing comes in. It joins three parts:
//
//    Roster      the workers that are attached, and whether they live
//    GroupCore   one per group: its epochs, its running sequences, its steps
//    Queue       sequences that wait for room in any group
//
// An accepted sequence ends by finishing, by its gateway's cancelling, or with an error that is its own: nothing that
// happens to workers ends it. Pure: time is an argument. Thread-compatible.
class RouterCore {
 public:
  // How long gateways are asked to wait when the queue is full (some requests end within this) or no group is ready.
  static constexpr absl::Duration kRetryWhenFull = absl::Seconds(1);
  static constexpr absl::Duration kRetryWhenNotReady = absl::Milliseconds(500);
  // A group that was lost is expected back within this: new requests wait for it, and it counts as ready.
  static constexpr absl::Duration kRecoveryPatience = absl::Seconds(5);
  // A group that does not serve for this long gives its sequences to the others, if there are any.
  static constexpr absl::Duration kHandOverAfter = absl::Seconds(2);

  // `before`: epoch numbers start above it. A router that starts later must be given a larger one, so that workers can
  // tell its messages from those of its predecessor. `probe` must outlive *this. REQUIRES: CheckOptions(options).ok().
  RouterCore(const RouterOptions& options, Epoch before, RouterProbe* probe);

  // The first action for `id` is `accepted` or its end. REQUIRES: an id above all those before.
  void OnGenerate(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time now);
  // Nothing more is said about the sequence. Unknown ids are ignored.
  void OnCancel(SequenceId id);

  // `worker` ids are never used twice.
  void OnWorkerOpened(WorkerId worker, absl::Time now);
  // From here on a worker that was closed is unknown; messages of unknown workers are ignored.
  void OnWorkerMessage(WorkerId worker, const v1::AttachRequest& message, absl::Time now);
  void OnWorkerLost(WorkerId worker, absl::Time now);

  // Accepts nothing new and lets go of what waits; what was accepted goes on.
  void Drain();
  // Ends every sequence with `status` and every worker's stream.
  void Stop(const absl::Status& status, absl::Time now);

  void Advance(absl::Time now);
  // When to call it next though nothing comes in, if that is sooner than usual.
  absl::Time WakeAt() const;
  std::vector<Action> TakeActions();

  bool idle() const { return queue_.size() == 0 && running() == 0; }
  // As for Router::NotReady.
  std::string NotReady() const;
  // What the next loss of a worker would break; empty: nothing.
  std::string Unprotected() const;
  void FillStatus(v1::GetStatusResponse* status) const;

 private:
  absl::Status CheckAdmissible(const v1::GenerateSequenceRequest& request, absl::Time now);
  absl::Status Dispatch(WorkerId worker, const v1::AttachRequest& message, absl::Time now);
  absl::Status OnHello(WorkerId worker, const v1::Hello& hello, absl::Time now);
  // The group that an attached worker belongs to; nullptr before its Hello.
  GroupCore* GroupOf(WorkerId worker) const;
  // The name of the group that a new worker joins.
  std::string ChooseGroup(const v1::Hello& hello) const;
  // `crashed`: see Membership::OnLost.
  void Close(WorkerId worker, absl::Status status, absl::Time now, bool crashed = false);
  void Forget(WorkerId worker, bool crashed, absl::Time now);

  Sequence* Find(SequenceId id) const;
  bool Remove(SequenceId id);  // false if there is none
  // That worker has not crashed when its stream broke.
  void Acquit(const Suspicion::Crash& no_crash);
  // Ends sequences on trial whose time has come.
  void Judge(absl::Time now);
  void HandOver(absl::Time now);
  void Admit(absl::Time now);
  // The group for a sequence: where most of it is known unless that one is much busier, else the idlest with room.
  GroupCore* ChooseGroupFor(const Sequence& sequence) const;
  bool CouldHold(const Sequence& sequence) const;
  // Some group serves, or did a moment ago.
  bool Ready() const;
  // REQUIRES: an error, and that it waits in the queue.
  void FailWaiting(SequenceId id, absl::Status status);
  int running() const;
  void UpdateGauges();

  const RouterOptions options_;
  RouterProbe* const probe_;
  std::vector<Action> actions_;
  const Epoch before_;
  Epoch last_epoch_;
  absl::Time now_;  // of the last Advance
  Roster roster_;
  std::map<std::string, std::unique_ptr<GroupCore>> groups_;  // as they are needed
  Queue queue_;
  Quarantine quarantine_;
  std::vector<SequenceId> on_trial_;
  std::optional<v1::Hello> model_;  // what the workers of the last epoch agreed on
  uint64_t kv_tokens_max_ = 0;      // of the roomiest worker that ever served
  bool draining_ = false;
  bool stopped_ = false;
};

}  // namespace braid
