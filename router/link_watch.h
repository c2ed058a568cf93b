#pragma once

#include <map>
#include <optional>
#include <span>
#include <utility>

#include "absl/time/time.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// Finds links between workers that are cut while both ends still reach the router. From how far each says it is in the
// step: a worker that waits for the message of a peer, which is itself in that phase of the exchange or past it, waits
// for a message that was sent. If that does not change for long enough, the message does not arrive. A peer that is
// merely slow is behind, and never accused.
//
// Pure: time is an argument. Thread-compatible.
class LinkWatch {
 public:
  explicit LinkWatch(absl::Duration patience) : patience_(patience) {}

  // `beats`: the last heartbeat of each rank, null where there is none of this epoch. Two ranks, if a link is cut.
  std::optional<std::pair<int, int>> Look(std::span<const v1::Heartbeat* const> beats, absl::Time now);
  void Reset() { waiting_.clear(); }

 private:
  struct Wait {
    uint64_t phase = 0;
    absl::Time since;
  };
  const absl::Duration patience_;
  std::map<std::pair<int, int>, Wait> waiting_;  // (who waits, for whom)
};

}  // namespace braid
