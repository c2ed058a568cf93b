#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/thread_pool.h"
#include "router/router.h"
#include "tests/simulation/network.h"
#include "tests/simulation/oracle.h"
#include "tests/simulation/referee.h"
#include "tests/simulation/sim_exchange.h"
#include "tests/simulation/sim_gateway.h"
#include "tests/simulation/sim_router.h"
#include "tests/simulation/sim_worker.h"
#include "tests/simulation/world.h"

namespace braid::simulation {

// All programs of a cluster with their supervisor, who starts again what has ended, and the callers, who compare every
// word with the right answer.
class Cluster {
 public:
  struct Options {
    int gateways = 1;
    RouterOptions router;
    std::vector<SimWorker::Options> workers;
    bool can_lose_a_worker = false;
    bool small_workers = false;  // some have no room for every request
    absl::Duration delay = absl::Microseconds(200), jitter = absl::Microseconds(300);
    absl::Duration restart_min = absl::Milliseconds(100), restart_max = absl::Seconds(2);
  };
  Cluster(World* world, const Options& options);
  ~Cluster();

  World* world() const { return world_; }
  Network& network() { return network_; }
  DataPlane& plane() { return plane_; }

  // --- Faults. Indices count from 0; nodes that are not there are skipped.
  int gateways() const { return static_cast<int>(gateways_.size()); }
  int workers() const { return static_cast<int>(workers_.size()); }
  Process& router_process() { return routers_.back()->process; }
  Process& worker_process(int i) { return workers_[static_cast<size_t>(i)]->process; }
  Process& gateway_process(int i) { return gateways_[static_cast<size_t>(i)]->process; }
  std::vector<Process*> processes();

  enum class Restart { kSoon, kWhenHealed };
  void CrashWorker(int i, Restart restart);
  void CrashRouter();
  void CrashGateway(int i);
  // A connection of this process to a router breaks, with both alive.
  void ResetConnection(const Process& process);
  // The orderly end of a router, and a new start.
  void RestartRouter();
  // Another router takes its place; the old one goes on with whoever still talks to it.
  void ReplaceRouter();
  void LeaveWorker(int i);
  // Never starts again.
  void BuryWorker(int i);
  // Every group could go on without one of its workers.
  bool can_lose_a_worker() const { return options_.can_lose_a_worker; }
  int AddWorker(const SimWorker::Options& options);
  SimWorker* worker(int i) { return workers_[static_cast<size_t>(i)]->worker.get(); }
  const SimWorker::Options& worker_options(int i) const { return workers_[static_cast<size_t>(i)]->options; }

  // Whatever is down comes back; routers that were replaced are shut down.
  void Heal();

  // --- Callers.
  void StartCall(int exam);
  void CancelCall(uint64_t id);
  // Accepted and not ended, or still to be accepted.
  int calls_open() const;
  uint64_t RandomOpenCall();
  std::string DescribeOpenCalls() const;
  // Everything has ended and nothing may be left of it.
  void CheckEmpty();
  bool Ready() const;

 private:
  struct Gateway {
    explicit Gateway(World* world, std::string name) : process(world, std::move(name)) {}
    Process process;
    std::unique_ptr<SimGateway> gateway;
  };
  struct Router {
    explicit Router(World* world, std::string name) : process(world, std::move(name)) {}
    Process process;
    std::unique_ptr<SimRouter> router;
  };
  struct Worker {
    Worker(World* world, const SimWorker::Options& options) : process(world, options.name), options(options) {}
    Process process;
    const SimWorker::Options options;
    std::unique_ptr<SimWorker> worker;
    bool gone = false;    // wants to leave, or has left, until all is healed
    bool buried = false;  // for ever
  };
  struct Call {
    int exam = 0;
    int gateway = -1;
    uint64_t number = 0;  // of the attempt; 0: none runs
    CallRecord record;
    enum class State { kOpen, kDone, kFailed, kCancelled, kBroken } state = State::kOpen;
  };

  void Connect(Process* process);
  void Reach(Process* from, OnRouterReached reached);
  void StartGateway(int i);
  void StartRouter(Router& node);
  void StartWorker(int i);
  void StopRouter(Router& node);
  absl::Duration RestartDelay();
  void Submit(uint64_t id);
  void OnEvent(uint64_t id, uint64_t number, const CallEvent& event);
  void OnError(uint64_t id, Call& call);

  World* const world_;
  const Options options_;
  Network network_;
  DataPlane plane_;
  Referee referee_;
  ThreadPool pool_;
  int last_router_ = 0;
  bool healed_ = false;
  std::vector<std::unique_ptr<Router>> routers_;  // the last is the one to be found
  std::vector<std::unique_ptr<Gateway>> gateways_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::map<const Process*, std::weak_ptr<Connection>> connections_;  // to the router, the last of each
  std::map<uint64_t, Call> calls_;
  uint64_t last_call_ = 0, last_number_ = 0;
};

}  // namespace braid::simulation
