#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "expert_worker/epoch_member.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/worker_protocol.h"
#include "kernels/thread_pool.h"
#include "tests/simulation/fiber.h"
#include "tests/simulation/sim_exchange.h"
#include "tests/simulation/sim_gateway.h"
#include "tests/simulation/stale.h"
#include "tests/simulation/toy_model.h"

namespace braid::simulation {

// A worker's rim in virtual time: its stream to the router, its set-up thread and its step thread, around the real
// WorkerProtocol, StepRunner and EpochMember. See
// expert_worker/worker_threads.cc and router_link.cc.
class SimWorker {
 public:
  struct Options {
    std::string name, group, host;
    int kv_blocks = 32;
    int sequences_max = 16;
    int step_tokens_max = 64;
    int expert_slots = 16;
    int snapshots_max = 8;
    int ranks_max = 0;
    absl::Duration exchange_timeout = absl::Seconds(30);
    absl::Duration row_time = absl::Milliseconds(1);     // of one row between two layers
    absl::Duration step_time = absl::Milliseconds(10);   // of any step, between two layers
    absl::Duration load_time = absl::Milliseconds(100);  // to read in experts
  };

  // All must outlive *this. `poisoned` is called when this worker computes a row that kills it.
  SimWorker(Process* process, DataPlane* plane, ThreadPool* pool, const Options& options, ReachRouter reach,
            std::function<void()> poisoned);
  // The process is dead.
  ~SimWorker();

  // Says that it wants to leave; `left` is called when the router has let it go.
  void Leave(std::function<void()> left);
  void set_slowness(double factor) { slowness_ = factor; }

  int sequences() const { return runner_.sequences().size(); }
  int kv_blocks_used() const { return runner_.sequences().blocks().used(); }
  int snapshots() const { return runner_.sequences().snapshots().size(); }
  bool serves() const { return protocol_.serving_epoch() != 0; }

 private:
  using Member = std::shared_ptr<EpochMember>;

  void Attach();
  void OnReached(std::shared_ptr<Connection> connection, SimRouter* router);
  void OnMessage(const v1::AttachResponse& message);
  void OnStreamEnded();
  void Send(v1::AttachRequest message);
  void Beat();
  void WatchSilence();
  void Detach(bool tell);

  // What the protocol orders.
  void CarryOut();
  void Do(WorkerProtocol::OpenExchange& order);
  void Do(WorkerProtocol::ConnectExchange& order);
  void Do(WorkerProtocol::AbandonExchange& order);
  void Do(WorkerProtocol::BeginEpoch& order);
  void Do(WorkerProtocol::RunStep& order);
  void Do(WorkerProtocol::ForgetSequences& order);
  void Do(WorkerProtocol::Answer& order);
  void OnFault(const v1::Fault& fault);
  void CheckStep(const v1::StepPlan& plan);
  void Compute(int rows);
  absl::Status LoadExperts(const std::function<bool()>& stop);
  // Reports a result to the protocol when the task that has it has ended.
  void Report(std::function<void()> result);

  Process* const process_;
  World* const world_;
  Network* const network_;
  const Options options_;
  const ReachRouter reach_;
  const std::function<void()> poisoned_;
  double slowness_ = 1;

  HostStates states_;
  ToyForward forward_;
  GatedExpertFfn ffn_;
  SimExchangeFactory exchanges_;
  const EpochMember::Shared shared_;
  StepRunner runner_;
  WorkerProtocol protocol_;
  std::map<uint64_t, Member> members_;  // by epoch, but for those abandoned

  std::shared_ptr<Connection> connection_;
  SimRouter* router_ = nullptr;
  uint64_t attachment_ = 0;  // numbers the streams
  uint64_t rhythm_ = 0;      // numbers the rows of heartbeats
  bool welcomed_ = false;
  absl::Duration pause_, heartbeat_, heartbeat_timeout_;
  absl::Time heard_;
  std::function<void()> left_;

  // The second set of books: what this worker has been told on this stream.
  uint64_t begun_epoch_ = 0, last_step_ = 0;  // of the last Begin that it followed, on any stream; of its last step
  std::set<uint64_t> stopped_;
  uint64_t failed_epoch_ = 0;            // a step of it has failed here
  std::deque<v1::StepPlan> last_plans_;  // two at most
  Past<v1::AttachRequest> past_;

  Task set_up_, steps_;  // last: their code uses the rest
};

}  // namespace braid::simulation
