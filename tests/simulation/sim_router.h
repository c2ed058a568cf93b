#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "monitoring/metrics.h"
#include "router/actions.h"
#include "router/probe.h"
#include "router/router.h"
#include "tests/simulation/network.h"
#include "tests/simulation/referee.h"
#include "tests/simulation/stale.h"

namespace braid {
class RouterCore;
}

namespace braid::simulation {

// What a gateway does with the end of a call that the router ended.
using OnCallEnd = std::function<void(const absl::Status& status, absl::Duration retry_after)>;
using OnCallEvent = std::function<void(const v1::GenerateSequenceResponse& event)>;

// A router's rim in virtual time, around the real core: one loop that takes what has come in, lets the core act, and
// carries out what it decides. See router/router_server.cc.
class SimRouter {
 public:
  // `number` tells routers apart. All must outlive *this.
  SimRouter(Process* process, Network* network, Referee* referee, Metrics* metrics, const RouterOptions& options,
            int number);
  ~SimRouter();

  // Somebody has connected.
  void Accept(std::shared_ptr<Connection> connection);

  // What follows runs in the router's process. Calls of a gateway, by its numbers:
  void OnGenerate(const std::shared_ptr<Connection>& connection, uint64_t call,
                  const v1::GenerateSequenceRequest& request, OnCallEvent on_event, OnCallEnd on_end);
  void OnCancel(const std::shared_ptr<Connection>& connection, uint64_t call);

  // A worker's stream.
  void OnWorker(const std::shared_ptr<Connection>& connection, std::function<void(const v1::AttachResponse&)> receive);
  void OnWorkerSpoke(const std::shared_ptr<Connection>& connection, v1::AttachRequest message);

  // An orderly end: accepts nothing new; what it has it gives up after `grace`.
  void Shutdown(absl::Duration grace);
  // The process is dead: what it had open breaks.
  void Break();

  bool ready() const;
  v1::GetStatusResponse Status() const;

 private:
  struct Call {
    std::shared_ptr<Connection> connection;
    uint64_t id = 0;
    std::string what;  // equal for equal requests
    OnCallEvent on_event;
    OnCallEnd on_end;
  };
  struct Worker {
    std::shared_ptr<Connection> connection;
    std::function<void(const v1::AttachResponse&)> receive;
    Past<v1::AttachResponse> past;
    uint64_t begun = 0;  // the last epoch it was told to begin
  };

  void Post(std::function<void(absl::Time now)> input);
  void Loop();
  void ScheduleWake();
  void Tick();
  void Lose(const Connection& connection);
  void Cancel(SequenceId id);
  void CheckEviction(WorkerId worker, const Connection& connection);
  void Do(SendToWorker& action);
  void Do(CloseWorker& action);
  void Do(SendToSequence& action);
  void Do(EndSequence& action);

  Process* const process_;
  World* const world_;
  Network* const network_;
  Referee* const referee_;
  const RouterOptions options_;
  const int number_;
  RouterProbe probe_;
  const std::unique_ptr<RouterCore> core_;
  std::deque<std::function<void(absl::Time now)>> inbox_;
  bool scheduled_ = false;
  absl::Time wake_at_ = absl::InfiniteFuture();  // by this clock
  uint64_t last_sequence_ = 0;
  uint32_t last_worker_ = 0;
  std::map<SequenceId, Call> calls_;
  // By the connection's number.
  std::map<std::pair<uint64_t, uint64_t>, SequenceId> ids_;  // and the call's
  std::map<uint64_t, WorkerId> worker_ids_;
  std::map<uint64_t, std::shared_ptr<Connection>> connections_;
  std::map<WorkerId, Worker> workers_;
};

}  // namespace braid::simulation
