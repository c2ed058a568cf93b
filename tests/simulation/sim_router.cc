#include "tests/simulation/sim_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "router/router_core.h"
#include "tests/simulation/describe.h"

namespace braid::simulation {
namespace {

constexpr int kInputsPerRound = 256;
constexpr int kRouterEnd = 1;  // of a connection: others dial

// But for what differs between attempts and choices.
std::string WhatIsAsked(v1::GenerateSequenceRequest request) {
  request.clear_request_id();
  request.clear_generated();
  request.mutable_sampling()->clear_choice();
  return request.SerializeAsString();
}

}  // namespace

SimRouter::SimRouter(Process* process, Network* network, Referee* referee, Metrics* metrics,
                     const RouterOptions& options, int number)
    : process_(process),
      world_(process->world()),
      network_(network),
      referee_(referee),
      options_(options),
      number_(number),
      probe_(metrics),
      core_(new RouterCore(options, Epoch(static_cast<uint64_t>(absl::ToUnixMillis(process->Now()))), &probe_)) {
  Tick();
}

SimRouter::~SimRouter() = default;

bool SimRouter::ready() const { return core_->NotReady().empty(); }

void SimRouter::Tick() {
  process_->After(std::clamp(options_.heartbeat / 5, absl::Milliseconds(5), absl::Milliseconds(100)), [this] {
    Loop();
    Tick();
  });
}

void SimRouter::Post(std::function<void(absl::Time now)> input) {
  inbox_.push_back(std::move(input));
  if (std::exchange(scheduled_, true)) return;
  process_->After(world_->random().Between(absl::Microseconds(5), absl::Microseconds(300)), [this] {
    scheduled_ = false;
    Loop();
  });
}

void SimRouter::Loop() {
  const absl::Time now = process_->Now();
  for (int n = 0; n < kInputsPerRound && !inbox_.empty(); ++n) {
    const std::function<void(absl::Time)> input = std::move(inbox_.front());
    inbox_.pop_front();
    input(now);
  }
  core_->Advance(now);
  for (Action& action : core_->TakeActions()) {
    std::visit([this](auto& what) { Do(what); }, action);
  }
  ScheduleWake();
}

void SimRouter::ScheduleWake() {
  if (std::exchange(wake_at_, core_->WakeAt()) == core_->WakeAt() || wake_at_ == absl::InfiniteFuture()) return;
  const absl::Duration late = world_->random().Between(absl::Microseconds(5), absl::Microseconds(300));
  process_->After(std::max(wake_at_ - process_->Now(), absl::ZeroDuration()) + late, [this, wake_at = wake_at_] {
    if (wake_at == wake_at_) Loop();
  });
}

void SimRouter::Accept(std::shared_ptr<Connection> connection) {
  connection->SetOnEnd(kRouterEnd, [this, raw = connection.get()](Connection::Ending) { Lose(*raw); });
  connections_[connection->number()] = std::move(connection);
}

void SimRouter::Lose(const Connection& connection) {
  for (auto it = ids_.lower_bound({connection.number(), 0});
       it != ids_.end() && it->first.first == connection.number();) {
    const SequenceId id = it->second;
    it = ids_.erase(it);
    calls_.erase(id);
    Post([this, id](absl::Time) { Cancel(id); });
  }
  if (const auto worker = worker_ids_.find(connection.number()); worker != worker_ids_.end()) {
    const WorkerId id = worker->second;
    SIM_LOG(world_, process_->name(), fmt::format("the stream of worker {} has ended", id.value));
    worker_ids_.erase(worker);
    workers_.erase(id);
    Post([this, id](absl::Time now) {
      referee_->OnRouterLoses(number_, id, /*broken=*/true);
      core_->OnWorkerLost(id, now);
    });
  }
  connections_.erase(connection.number());
}

void SimRouter::OnGenerate(const std::shared_ptr<Connection>& connection, uint64_t call,
                           const v1::GenerateSequenceRequest& request, OnCallEvent on_event, OnCallEnd on_end) {
  const SequenceId id(++last_sequence_);
  calls_[id] = {connection, call, WhatIsAsked(request), std::move(on_event), std::move(on_end)};
  ids_[{connection->number(), call}] = id;
  SIM_LOG(world_, process_->name(),
          fmt::format("sequence {} begins: {}, prompt {}, generated {}, at most {}", id.value, request.request_id(),
                      request.prompt_size(), request.generated_size(), request.max_new_tokens()));
  Post([this, id, request](absl::Time now) {
    if (!calls_.contains(id)) return;
    referee_->OnGenerate(number_, id, request);
    core_->OnGenerate(id, request, now);
  });
}

void SimRouter::Cancel(SequenceId id) {
  referee_->OnCancel(number_, id);
  core_->OnCancel(id);
}

void SimRouter::OnCancel(const std::shared_ptr<Connection>& connection, uint64_t call) {
  const auto found = ids_.find({connection->number(), call});
  if (found == ids_.end()) return;
  const SequenceId id = found->second;
  ids_.erase(found);
  calls_.erase(id);
  SIM_LOG(world_, process_->name(), fmt::format("sequence {} is cancelled", id.value));
  Post([this, id](absl::Time) { Cancel(id); });
}

void SimRouter::OnWorker(const std::shared_ptr<Connection>& connection,
                         std::function<void(const v1::AttachResponse&)> receive) {
  const WorkerId id(++last_worker_);
  worker_ids_[connection->number()] = id;
  workers_[id] = {.connection = connection, .receive = std::move(receive), .past = {}};
  Post([this, id](absl::Time now) {
    if (workers_.contains(id)) core_->OnWorkerOpened(id, now);
  });
}

void SimRouter::OnWorkerSpoke(const std::shared_ptr<Connection>& connection, v1::AttachRequest message) {
  const auto found = worker_ids_.find(connection->number());
  if (found == worker_ids_.end()) return;
  Post([this, id = found->second, message = std::move(message)](absl::Time now) {
    if (world_->logging() && !message.has_heartbeat()) {
      world_->Log(process_->name(), fmt::format("worker {}: {}", id.value, Describe(message)));
    }
    referee_->OnRouterHears(number_, id, message);
    core_->OnWorkerMessage(id, message, now);
  });
}

void SimRouter::Shutdown(absl::Duration grace) {
  Post([this](absl::Time) { core_->Drain(); });
  process_->After(grace, [this] {
    Post([this](absl::Time now) { core_->Stop(absl::UnavailableError("the router is shutting down"), now); });
  });
}

void SimRouter::Break() {
  for (auto& [number, connection] : connections_) connection->Break(kRouterEnd);
}

v1::GetStatusResponse SimRouter::Status() const {
  v1::GetStatusResponse status;
  core_->FillStatus(&status);
  return status;
}

void SimRouter::Do(SendToWorker& action) {
  referee_->OnRouterSends(number_, action.worker, action.message);
  const auto found = workers_.find(action.worker);
  if (found == workers_.end()) return;
  if (world_->logging() && !action.message.has_heartbeat()) {
    world_->Log(process_->name(), fmt::format("to worker {}: {}", action.worker.value, Describe(action.message)));
  }
  Worker& worker = found->second;
  const auto send = [&worker](const v1::AttachResponse& message) {
    worker.connection->Send(kRouterEnd, [receive = worker.receive, message] { receive(message); });
  };
  if (network_->stale_chance() > 0) {
    // Most messages are about steps, but at a change of epoch there is more to confuse.
    const bool changes = action.message.has_prepare() || action.message.has_configure() || action.message.has_begin();
    const bool recall = world_->random().Chance(network_->stale_chance() * (changes ? 8 : 1));
    if (const v1::AttachResponse* old = recall ? worker.past.Recall(worker.begun, world_->random()) : nullptr) {
      SIM_LOG(world_, "nemesis", fmt::format("once more to worker {}: {}", action.worker.value, Describe(*old)));
      world_->Count("stale messages to workers");
      send(*old);
    }
    worker.past.Remember(action.message);
    if (action.message.has_begin()) worker.begun = action.message.begin().epoch();
  }
  send(action.message);
}

void SimRouter::Do(CloseWorker& action) {
  const auto found = workers_.find(action.worker);
  if (found == workers_.end()) return;
  SIM_LOG(world_, process_->name(), fmt::format("closes worker {}: {}", action.worker.value, action.status.ToString()));
  world_->Count(action.status.ok() ? "workers let go" : "evictions");
  switch (action.status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      CheckEviction(action.worker, *found->second.connection);
      break;
    case absl::StatusCode::kOk:
    case absl::StatusCode::kUnavailable:
      break;
    default:  // our workers are right, whatever happens
      world_->Fail(
          fmt::format("the router is not content with worker {}: {}", action.worker.value, action.status.ToString()));
  }
  referee_->OnRouterLoses(number_, action.worker, /*broken=*/false);
  worker_ids_.erase(found->second.connection->number());
  connections_.erase(found->second.connection->number());
  found->second.connection->Close(kRouterEnd);
  workers_.erase(found);
}

// A worker that runs and can be reached has said so, however long the router itself was away.
void SimRouter::CheckEviction(WorkerId worker, const Connection& connection) {
  constexpr absl::Duration kBacklog = absl::Seconds(2);  // for what waited in a link that was not sound
  const absl::Time since = world_->now() - options_.heartbeat_timeout - kBacklog;
  const Process* const evicted = connection.process(1 - kRouterEnd);
  if (!evicted->runs() || evicted->runs_since() > since || connection.cut()) return;
  if (!network_->sound_since(process_, evicted, since)) return;
  world_->Fail(
      fmt::format("worker {} ({}) is evicted, but has been there all the time", worker.value, evicted->name()));
}

void SimRouter::Do(SendToSequence& action) {
  referee_->OnRouterSays(number_, action.sequence, action.event);
  const auto found = calls_.find(action.sequence);
  if (found == calls_.end()) return;
  Call& call = found->second;
  call.connection->Send(kRouterEnd, [on_event = call.on_event, event = std::move(action.event)] { on_event(event); });
}

void SimRouter::Do(EndSequence& action) {
  const auto found = calls_.find(action.sequence);
  if (found == calls_.end()) return referee_->OnEnd(number_, action.sequence, action.status);
  Call& call = found->second;
  if (absl::IsAborted(action.status)) referee_->OnQuarantine(number_, action.sequence, call.what);
  SIM_LOG(world_, process_->name(),
          fmt::format("sequence {} ends: {}", action.sequence.value, action.status.ToString()));
  call.connection->Send(kRouterEnd, [on_end = call.on_end, status = action.status, retry_after = action.retry_after] {
    on_end(status, retry_after);
  });
  ids_.erase({call.connection->number(), call.id});
  calls_.erase(found);
  referee_->OnEnd(number_, action.sequence, action.status);
}

}  // namespace braid::simulation
