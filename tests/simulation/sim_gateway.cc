#include "tests/simulation/sim_gateway.h"

#include <fmt/format.h>

#include <utility>
#include <variant>

namespace braid::simulation {
namespace {

constexpr int kGatewayEnd = 0;
// As ConnectToRouter sets them for gRPC.
constexpr absl::Duration kReconnectPause = absl::Milliseconds(500);
constexpr absl::Duration kKeepaliveTime = absl::Seconds(2), kKeepaliveTimeout = absl::Seconds(2);

}  // namespace

SimGateway::SimGateway(Process* process, const Tokenizer* tokenizer, ReachRouter reach)
    : process_(process), world_(process->world()), tokenizer_(tokenizer), reach_(std::move(reach)) {}

void SimGateway::Start(uint64_t id, const PreparedCall& prepared, Sink sink) {
  auto call = std::make_unique<Call>(Call{id, CallFold(tokenizer_, prepared, 0), std::move(sink), {}});
  for (int choice = 0; choice < call->fold.sequences(); ++choice) {
    call->sequences.push_back(std::make_shared<Sequence>(
        Sequence{SequenceLog(call->fold.Request(choice, fmt::format("call-{}/{}", id, choice))), id, choice}));
  }
  Call& started = *(calls_[id] = std::move(call));
  const std::vector<std::shared_ptr<Sequence>> sequences = started.sequences;
  for (const std::shared_ptr<Sequence>& sequence : sequences) Submit(sequence);
}

void SimGateway::Cancel(uint64_t id) {
  const auto found = calls_.find(id);
  if (found == calls_.end()) return;
  for (const std::shared_ptr<Sequence>& sequence : found->second->sequences) Drop(*sequence);
  calls_.erase(found);
}

void SimGateway::Break() {
  if (connection_) connection_->Break(kGatewayEnd);
}

void SimGateway::Submit(const std::shared_ptr<Sequence>& sequence) {
  if (sequence->over) return;
  switch (channel_) {
    case Channel::kReady:
      return Send(sequence);
    case Channel::kConnecting:
      waiting_.push_back(sequence);
      return;
    case Channel::kIdle:
      waiting_.push_back(sequence);
      return Connect();
    case Channel::kFailed:
      // Fails fast, as gRPC does; never from inside.
      sequence->attempt = ++last_attempt_;
      process_->After(absl::ZeroDuration(), [this, sequence, attempt = sequence->attempt] {
        OnEnd(sequence, attempt, absl::UnavailableError("the router cannot be reached"), absl::ZeroDuration());
      });
  }
}

void SimGateway::Send(const std::shared_ptr<Sequence>& sequence) {
  if (sequence->over) return;
  const uint64_t attempt = sequence->attempt = ++last_attempt_;
  running_[attempt] = sequence;
  // Callbacks run in this process, behind the connection's delay.
  OnCallEvent on_event = [this, sequence, attempt](const v1::GenerateSequenceResponse& event) {
    OnEvent(sequence, attempt, event);
  };
  OnCallEnd on_end = [this, sequence, attempt](const absl::Status& status, absl::Duration retry_after) {
    OnEnd(sequence, attempt, status, retry_after);
  };
  connection_->Send(kGatewayEnd,
                    [router = router_, connection = connection_, attempt, request = sequence->log.request(),
                     on_event = std::move(on_event), on_end = std::move(on_end)] {
                      router->OnGenerate(connection, attempt, request, on_event, on_end);
                    });
}

void SimGateway::OnEvent(const std::shared_ptr<Sequence>& sequence, uint64_t attempt,
                         const v1::GenerateSequenceResponse& event) {
  if (sequence->over || sequence->attempt != attempt) return;
  absl::StatusOr<SequenceUpdate> update = sequence->log.OnResponse(event);
  if (!update.ok()) {
    world_->Fail(fmt::format("call {}: {}", sequence->call, update.status().ToString()));
    return;
  }
  calls_.at(sequence->call)->fold.OnUpdate(sequence->choice, *update);
  Tell(sequence->call);
}

void SimGateway::OnEnd(const std::shared_ptr<Sequence>& sequence, uint64_t attempt, const absl::Status& status,
                       absl::Duration retry_after) {
  running_.erase(attempt);
  if (sequence->over || sequence->attempt != attempt) return;
  sequence->attempt = 0;
  const SequenceLog::Next next = sequence->log.OnEnd(status);
  if (const auto* delay = std::get_if<absl::Duration>(&next)) {
    world_->Count("resubmissions");
    process_->After(*delay, [this, sequence] { Submit(sequence); });
  }
  if (const auto* failure = std::get_if<absl::Status>(&next)) Fail(sequence, *failure, retry_after);
}

void SimGateway::Fail(const std::shared_ptr<Sequence>& sequence, const absl::Status& status,
                      absl::Duration retry_after) {
  calls_.at(sequence->call)
      ->fold.OnFailed(
          {status.code(), "", "", std::string(status.message().data(), status.message().size()), retry_after});
  Tell(sequence->call);
}

void SimGateway::Drop(Sequence& sequence) {
  if (std::exchange(sequence.over, true) || sequence.attempt == 0) return;
  if (running_.erase(sequence.attempt) == 0 || connection_ == nullptr) return;
  connection_->Send(kGatewayEnd, [router = router_, connection = connection_, attempt = sequence.attempt] {
    router->OnCancel(connection, attempt);
  });
}

void SimGateway::Tell(uint64_t id) {
  Call& call = *calls_.at(id);
  for (const int choice : call.fold.TakeNeedless()) {
    world_->Count("stop strings found");
    Drop(*call.sequences[static_cast<size_t>(choice)]);
  }
  for (const CallEvent& event : call.fold.TakeEvents()) call.sink(event);
  if (call.fold.ended()) Cancel(id);
}

void SimGateway::Connect() {
  channel_ = Channel::kConnecting;
  reach_([this](std::shared_ptr<Connection> connection, SimRouter* router) {
    OnConnected(std::move(connection), router);
  });
}

void SimGateway::OnConnected(std::shared_ptr<Connection> connection, SimRouter* router) {
  std::vector<std::shared_ptr<Sequence>> waiting = std::exchange(waiting_, {});
  connection_ = std::move(connection);
  router_ = router;
  if (connection_ == nullptr) {
    channel_ = Channel::kFailed;
    process_->After(kReconnectPause, [this] {
      if (channel_ == Channel::kFailed) Connect();
    });
  } else {
    channel_ = Channel::kReady;
    connection_->SetOnEnd(kGatewayEnd, [this](Connection::Ending) { OnDisconnected(); });
    Watch(connection_);
  }
  for (const std::shared_ptr<Sequence>& sequence : waiting) Submit(sequence);
}

void SimGateway::OnDisconnected() {
  SIM_LOG(world_, process_->name(), "has lost the router");
  channel_ = Channel::kIdle;
  connection_ = nullptr;
  for (auto& [attempt, sequence] : std::exchange(running_, {})) {
    OnEnd(sequence, attempt, absl::UnavailableError("the connection is broken"), absl::ZeroDuration());
  }
}

// gRPC's pings: a router that does not answer them is given up.
void SimGateway::Watch(std::shared_ptr<Connection> connection) {
  process_->After(kKeepaliveTime, [this, connection] {
    if (connection != connection_) return;
    auto answered = std::make_shared<bool>(false);
    connection->Send(kGatewayEnd,
                     [connection, answered] { connection->Send(1 - kGatewayEnd, [answered] { *answered = true; }); });
    process_->After(kKeepaliveTimeout, [this, connection, answered] {
      if (connection != connection_) return;
      if (*answered) return Watch(connection);
      connection->Break(kGatewayEnd);
      OnDisconnected();
    });
  });
}

}  // namespace braid::simulation
