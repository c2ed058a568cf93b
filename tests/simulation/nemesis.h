#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/simulation/cluster.h"

namespace braid::simulation {

// What breaks, when, and for how long: each seed picks its own few kinds of faults and their rates, so that over many
// seeds every combination comes up, also the ones with one kind alone.
class Nemesis {
 public:
  explicit Nemesis(Cluster* cluster);

  // Faults come at random times until Heal.
  void Start();
  // All faults end soon, in any order, and no new ones come. Where a group can do without one of its workers, one of
  // them may stay dead, or be silent for ever, or two of them may
  // never reach each other again.
  void Heal();

 private:
  struct Kind {
    std::string name;
    double per_second = 0;
    std::function<void(Nemesis*)> strike;
  };
  static std::vector<Kind> AllKinds();

  void ScheduleNext(const Kind* kind);
  // `undo` runs after `time`, or when all is healed.
  void For(absl::Duration time, std::function<void()> undo);
  absl::Duration Span();
  void Cut(const Process* from, const Process* to, absl::Duration time);
  void CutBothWays(const Process* a, const Process* b, absl::Duration time);
  void Pause(Process& process);
  Process& AnyProcess();
  int AnyWorker() { return static_cast<int>(random_.Below(static_cast<uint64_t>(cluster_->workers()))); }
  int AnyGateway() { return static_cast<int>(random_.Below(static_cast<uint64_t>(cluster_->gateways()))); }

  // Kinds of their own.
  void LoseHost();
  void Isolate();
  void SplitInTwo();
  void CutOnePair(absl::Duration time);
  void Swizzle();
  void SlowLink();
  void JumpRouterClock();
  void Join();

  Cluster* const cluster_;
  World* const world_;
  Network* const network_;
  Random& random_;
  std::vector<Kind> kinds_;  // of this seed
  bool healed_ = false;
  std::map<uint64_t, std::function<void()>> active_;
  uint64_t last_active_ = 0;
  int joined_ = 0;
};

}  // namespace braid::simulation
