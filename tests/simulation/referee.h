#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "braid/v1/router.pb.h"
#include "braid/v1/worker.pb.h"
#include "tests/simulation/world.h"

namespace braid::simulation {

// Watches what routers and workers say to each other and keeps a second set of books, so that a broken rule is seen
// where it is broken, also when later luck would hide it from the callers. Knows every router that ever was.
class Referee {
 public:
  explicit Referee(World* world) : world_(world) {}

  // `router` numbers the routers: a restarted one is another. Worker ids are a router's own.
  void OnRouterSends(int router, WorkerId to, const v1::AttachResponse& message);
  void OnRouterHears(int router, WorkerId from, const v1::AttachRequest& message);
  void OnRouterSays(int router, SequenceId to, const v1::GenerateSequenceResponse& event);
  // The stream of a worker has ended. `broken`: not because the router closed it, so it looks like a crash.
  void OnRouterLoses(int router, WorkerId worker, bool broken);
  void OnGenerate(int router, SequenceId sequence, const v1::GenerateSequenceRequest& request);
  void OnCancel(int router, SequenceId sequence);
  void OnEnd(int router, SequenceId sequence, const absl::Status& status);
  // The router takes the request for the cause of crashes. `request` is the same for equal requests: a quarantine is
  // for all of them.
  void OnQuarantine(int router, SequenceId sequence, const std::string& request);

 private:
  using Worker = std::pair<int, WorkerId>;      // router, id
  using Sequence = std::pair<int, SequenceId>;  // router, id
  static constexpr TokenId kUnknown = -1;
  struct StepBook {
    std::set<WorkerId> silent;  // asked and have not answered
    struct Rows {
      WorkerId worker;
      uint32_t begin = 0, end = 0;  // without those of drafts,
      uint32_t right = 0;           // which were that many
      TokenId first = kUnknown;     // the token that was chosen behind `end`
    };
    std::map<SequenceId, Rows> rows;
  };
  struct SnapshotBook {
    std::string scope;
    std::vector<TokenId> tokens;
    uint64_t epoch = 0, step = 0;  // that saves it
    bool committed = false;
  };
  struct EpochBook {
    int router = 0;
    std::set<WorkerId> members;
    std::set<WorkerId> begun;  // have answered Begin
    std::map<uint64_t, StepBook> steps;
    bool over = false;
  };
  struct SequenceBook {
    WorkerId owner;
    uint32_t length = 0;  // committed positions that the owner holds
    uint64_t epoch = 0;
    std::deque<uint64_t> steps;  // of this epoch, that sample its next tokens
    int64_t tokens = -1;         // said so far; -1: nothing
    bool accepted = false;
    std::vector<std::pair<uint64_t, std::string>> crashes;  // epoch and worker; since it last got past these positions
    uint32_t crash_begin = 0, crash_end = 0;
    bool cancelled = false;
    bool convicted = false;  // no other that was in the last of these steps had been at a crash before
    std::string scope;
    bool no_cache = false;
    std::vector<TokenId> prompt;
    std::vector<TokenId> run;  // the tokens that the owner was sent or has begun with; kUnknown: it knows it alone
  };
  void OnPlan(int router, WorkerId to, const v1::StepPlan& plan);
  void OnResume(const Worker& worker, uint64_t snapshot, SequenceBook* sequence);
  void OnBegin(int router, WorkerId to, const v1::Begin& begin);
  void OnBegun(int router, WorkerId from, const v1::Begun& begun);
  void OnStepDone(int router, WorkerId from, const v1::StepDone& done);
  void CheckFollows(int router, const v1::StepPlan& plan, const v1::SequenceChunk& chunk);

  World* const world_;
  std::map<uint64_t, EpochBook> epochs_;
  std::map<Worker, std::string> names_;
  std::set<Worker> leaving_;          // the end of their streams says nothing
  std::map<Worker, uint64_t> begun_;  // the last epoch that each was told to begin
  std::map<Sequence, SequenceBook> sequences_;
  std::map<Worker, std::map<uint64_t, SnapshotBook>> snapshots_;
  std::set<std::string> quarantined_;
};

}  // namespace braid::simulation
