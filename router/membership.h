#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "router/actions.h"
#include "router/router.h"

namespace braid {

// Who belongs to the group, decided here and nowhere else. Workers attach and say what they have; when enough are
// there, an epoch is set up in two rounds and then serves until one member is lost, leaves or reports a fault:
//
//    kWaiting --enough workers--> kPreparing --all Prepared--> kConfiguring --all Configured--> kServing
//        ^------------- a member lost, leaving, faulty, or silent for too long ----------------------|
//
// Workers beyond the number needed stand by and take a lost one's place at once. Silence is the only evidence against a
// worker besides its stream's end: a Fault accuses but does not convict, so the same members get another epoch, after a
// delay that grows while nothing succeeds.
//
// Pure: time is an argument. Thread-compatible.
class Membership {
 public:
  static constexpr int kAttachedMax = 4096;
  static constexpr absl::Duration kSetupTimeout = absl::Seconds(30);  // members abort a step and connect within this
  static constexpr absl::Duration kRetryMin = absl::Milliseconds(100);
  static constexpr absl::Duration kRetryMax = absl::Seconds(5);

  struct Member {
    WorkerId id;
    v1::Hello hello;
  };

  // Epoch numbers start above `before`: a router that starts later must be given a larger one, so that workers can tell
  // its messages from those of its predecessor. Decisions are appended to `actions`, which must outlive *this.
  Membership(const RouterOptions& options, Epoch before, std::vector<Action>* actions);

  // A stream was opened. kResourceExhausted if there are too many.
  absl::Status OnOpened(WorkerId worker, absl::Time now);
  // A message of an attached worker came: it lives.
  void OnHeard(WorkerId worker, absl::Time now);
  // An error means that the worker broke the protocol or does not fit this group: close it.
  absl::Status OnHello(WorkerId worker, const v1::Hello& hello, absl::Time now);
  absl::Status OnPrepared(WorkerId worker, const v1::Prepared& prepared);
  absl::Status OnConfigured(WorkerId worker, const v1::Configured& configured);
  void OnFault(WorkerId worker, const v1::Fault& fault, absl::Time now);
  void OnLeaving(WorkerId worker);
  // The stream is over. Unknown workers are ignored.
  void OnLost(WorkerId worker);
  // The epoch has completed a step.
  void OnProgress() { retry_delay_ = kRetryMin; }

  // Sends heartbeats, gives up the silent and the late, starts an epoch when it can.
  void Advance(absl::Time now);
  // Lets leaving workers go. Call between steps.
  void ReleaseLeaving();
  // Closes workers that did not answer in time.
  void Evict(const std::vector<WorkerId>& late, const std::string& what);
  // Closes one worker, or all of them.
  void Close(WorkerId worker, absl::Status status);
  void CloseAll(const absl::Status& status);

  // Members by rank while an epoch serves; empty otherwise.
  const std::vector<Member>& serving() const { return serving_; }
  // Of the epoch that serves or is being set up, or the last one.
  Epoch epoch() const { return epoch_; }
  std::optional<int> RankOf(WorkerId worker) const;  // in the serving epoch
  bool attached(WorkerId worker) const { return attached_.contains(worker); }
  bool heard_hello(WorkerId worker) const;
  // Attached workers that have said Hello, by id. Valid until the next non-const call.
  std::vector<std::pair<WorkerId, const v1::Hello*>> Attached() const;
  int attached_count() const { return static_cast<int>(attached_.size()); }
  // Why no epoch serves, for people; empty if one does.
  std::string NotReady() const;

 private:
  enum class State { kWaiting, kPreparing, kConfiguring, kServing };
  struct Worker {
    std::optional<v1::Hello> hello;
    absl::Time heard;  // its last message
    absl::Time said;   // our last message
    bool leaving = false;
    bool answered = false;  // the current round of the set-up
    std::string address;
  };

  void Send(WorkerId worker, v1::AttachResponse message);
  bool IsMember(WorkerId worker) const;
  bool AllAnswered() const;
  std::vector<WorkerId> Candidates() const;
  void GiveUpSilent(absl::Time now);
  void SendHeartbeats(absl::Time now);
  void StartEpoch(absl::Time now);
  void Configure();
  void EndEpoch();

  const RouterOptions options_;
  State state_ = State::kWaiting;
  Epoch epoch_;
  std::map<WorkerId, Worker> attached_;
  std::vector<WorkerId> ranks_;  // members by rank of the epoch that serves or is being set up
  std::vector<Member> serving_;
  absl::Time setup_deadline_;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration retry_delay_ = kRetryMin;
  absl::Time advanced_ = absl::InfiniteFuture();
  std::vector<Action>* const actions_;
};

}  // namespace braid
