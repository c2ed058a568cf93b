#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gateway/core/call_fold.h"
#include "gateway/core/sequence_log.h"
#include "tests/simulation/network.h"
#include "tests/simulation/sim_router.h"

namespace braid::simulation {

// Finds the router: null if nobody answers.
using OnRouterReached = std::function<void(std::shared_ptr<Connection>, SimRouter*)>;
using ReachRouter = std::function<void(OnRouterReached)>;

// A gateway's rim in virtual time: calls, their sequences' attempts, and one channel to the router, around the real
// SequenceLog and CallFold. See gateway/router_client.cc and gateway/running_call.cc.
class SimGateway {
 public:
  using Sink = std::function<void(const CallEvent&)>;

  // All must outlive *this.
  SimGateway(Process* process, const Tokenizer* tokenizer, ReachRouter reach);

  // The sink hears nothing after Cancel or the process's death. It must not call back.
  void Start(uint64_t call, const PreparedCall& prepared, Sink sink);
  void Cancel(uint64_t call);
  // The process is dead: what it had open breaks.
  void Break();

 private:
  struct Sequence;
  struct Call {
    uint64_t id = 0;
    CallFold fold;
    Sink sink;
    std::vector<std::shared_ptr<Sequence>> sequences;
  };
  // One sequence over all its attempts.
  struct Sequence {
    SequenceLog log;
    uint64_t call = 0;
    int choice = 0;
    uint64_t attempt = 0;  // its id on the connection; 0: none runs
    bool over = false;
  };

  void Submit(const std::shared_ptr<Sequence>& sequence);
  void Send(const std::shared_ptr<Sequence>& sequence);
  void OnEvent(const std::shared_ptr<Sequence>& sequence, uint64_t attempt, const v1::GenerateSequenceResponse& event);
  void OnEnd(const std::shared_ptr<Sequence>& sequence, uint64_t attempt, const absl::Status& status,
             absl::Duration retry_after);
  void Drop(Sequence& sequence);
  void Fail(const std::shared_ptr<Sequence>& sequence, const absl::Status& status, absl::Duration retry_after);
  // Tells the caller what is to be told, and lets go of what is not needed any more.
  void Tell(uint64_t call);

  void Connect();
  void OnConnected(std::shared_ptr<Connection> connection, SimRouter* router);
  void OnDisconnected();
  void Watch(std::shared_ptr<Connection> connection);

  Process* const process_;
  World* const world_;
  const Tokenizer* const tokenizer_;
  const ReachRouter reach_;
  std::map<uint64_t, std::unique_ptr<Call>> calls_;
  uint64_t last_attempt_ = 0;

  enum class Channel { kIdle, kConnecting, kReady, kFailed };
  Channel channel_ = Channel::kIdle;
  std::shared_ptr<Connection> connection_;
  SimRouter* router_ = nullptr;
  std::vector<std::shared_ptr<Sequence>> waiting_;         // for the connection
  std::map<uint64_t, std::shared_ptr<Sequence>> running_;  // by attempt
};

}  // namespace braid::simulation
