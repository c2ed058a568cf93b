#include "router/link_watch.h"

namespace braid {

std::optional<std::pair<int, int>> LinkWatch::Look(std::span<const v1::Heartbeat* const> beats, absl::Time now) {
  std::map<std::pair<int, int>, Wait> waiting;
  std::optional<std::pair<int, int>> cut;
  for (size_t rank = 0; rank < beats.size(); ++rank) {
    if (beats[rank] == nullptr) continue;
    for (uint32_t peer : beats[rank]->waiting_for()) {
      if (peer >= beats.size() || peer == rank || beats[peer] == nullptr) continue;
      if (beats[peer]->phase() < beats[rank]->phase()) continue;  // it computes
      const std::pair<int, int> link(static_cast<int>(rank), static_cast<int>(peer));
      const auto before = waiting_.find(link);
      const bool same = before != waiting_.end() && before->second.phase == beats[rank]->phase();
      const Wait wait = same ? before->second : Wait{beats[rank]->phase(), now};
      if (now - wait.since >= patience_ && !cut) cut = link;
      waiting.emplace(link, wait);
    }
  }
  waiting_ = std::move(waiting);
  return cut;
}

}  // namespace braid
