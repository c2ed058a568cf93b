#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "router/actions.h"
#include "router/router.h"

namespace braid {

// Every worker that is attached, whatever it is used for: what it said of itself, and whether it still lives. Silence
// is the only evidence against a worker besides its stream's end.
//
// Pure: time is an argument. Thread-compatible.
class Roster {
 public:
  static constexpr int kAttachedMax = 4096;

  struct Worker {
    std::optional<v1::Hello> hello;
    absl::Time heard;    // its last message
    absl::Time said;     // our last message
    v1::Heartbeat beat;  // its last one: how far its step is
    absl::Time beat_at = absl::InfinitePast();
  };

  // Decisions are appended to `actions`, which must outlive *this.
  Roster(const RouterOptions& options, std::vector<Action>* actions) : options_(options), actions_(actions) {}

  // A stream was opened. kResourceExhausted if there are too many.
  absl::Status OnOpened(WorkerId worker, absl::Time now);
  // A message of an attached worker came: it lives.
  void OnHeard(WorkerId worker, absl::Time now) { attached_.at(worker).heard = now; }
  // An error means that the worker broke the protocol or does not fit the others: close it.
  absl::Status OnHello(WorkerId worker, const v1::Hello& hello);
  void OnHeartbeat(WorkerId worker, const v1::Heartbeat& beat, absl::Time now);
  // False if it was unknown.
  bool Forget(WorkerId worker) { return attached_.erase(worker) > 0; }

  // Workers that have been silent for too long. A router that slept itself (stopped, swapped out) accuses nobody: what
  // they said in the meantime is still unread.
  std::vector<WorkerId> Silent(absl::Time now);
  // Sends those that are due; `epoch` is the highest so far.
  void SendHeartbeats(Epoch epoch, absl::Time now);

  const Worker* Find(WorkerId worker) const;  // nullptr if it is not attached
  const std::map<WorkerId, Worker>& workers() const { return attached_; }

 private:
  const RouterOptions options_;
  std::map<WorkerId, Worker> attached_;
  absl::Time looked_ = absl::InfiniteFuture();
  std::vector<Action>* const actions_;
};

}  // namespace braid
