#include "tests/simulation/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace braid::simulation {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(1);
constexpr absl::Duration kCallerPause = absl::Milliseconds(500);

// The handles of probes; nobody reads them here.
Metrics* SharedMetrics() {
  static Metrics* const metrics = new Metrics;
  return metrics;
}

}  // namespace

Cluster::Cluster(World* world, const Options& options)
    : world_(world), options_(options), network_(world), plane_(&network_), referee_(world), pool_(1) {
  routers_.push_back(std::make_unique<Router>(world_, "router"));
  Connect(&routers_.back()->process);
  StartRouter(*routers_.back());
  for (int i = 0; i < options.gateways; ++i) {
    gateways_.push_back(std::make_unique<Gateway>(world_, fmt::format("gateway{}", i)));
    Connect(&gateways_.back()->process);
    StartGateway(i);
  }
  for (const SimWorker::Options& worker : options.workers) AddWorker(worker);
}

// Everything dies at once, so that nobody has to tell anybody.
Cluster::~Cluster() {
  for (Process* process : processes()) process->Kill();
  for (auto& worker : workers_) worker->worker.reset();
}

std::vector<Process*> Cluster::processes() {
  std::vector<Process*> all;
  for (auto& router : routers_) all.push_back(&router->process);
  for (auto& gateway : gateways_) all.push_back(&gateway->process);
  for (auto& worker : workers_) all.push_back(&worker->process);
  return all;
}

void Cluster::Connect(Process* process) {
  for (Process* other : processes()) {
    for (Link* link : {&network_.link(process, other), &network_.link(other, process)}) {
      link->delay = options_.delay;
      link->jitter = options_.jitter;
    }
  }
}

void Cluster::Reach(Process* from, OnRouterReached reached) {
  Router* const node = routers_.back().get();
  Process* const to = &node->process;
  const absl::Duration way = network_.Arrival(from, to) - world_->now();
  world_->After(way, [this, from, to, node, way, reached = std::move(reached), incarnation = from->incarnation()] {
    if (from->incarnation() != incarnation) return;
    const bool answers = network_.reachable(from, to) && !to->paused();
    if (!answers || !to->alive()) {
      from->After(answers ? way : kConnectTimeout, [reached] { reached(nullptr, nullptr); });
      return;
    }
    auto connection = std::make_shared<Connection>(&network_, from, to);
    node->router->Accept(connection);
    connections_[from] = connection;
    from->After(way, [reached, connection, router = node->router.get()] {
      if (connection->open(0)) return reached(connection, router);
      reached(nullptr, nullptr);
    });
  });
}

void Cluster::StartGateway(int i) {
  Gateway& node = *gateways_[static_cast<size_t>(i)];
  node.process.Start();
  node.gateway = std::make_unique<SimGateway>(
      &node.process, ToyModel::Get().served().tokenizer.get(),
      [this, process = &node.process](OnRouterReached reached) { Reach(process, std::move(reached)); });
}

void Cluster::StartRouter(Router& node) {
  node.process.Start();
  node.router = std::make_unique<SimRouter>(&node.process, &network_, &referee_, SharedMetrics(), options_.router,
                                            ++last_router_);
}

void Cluster::StartWorker(int i) {
  Worker& node = *workers_[static_cast<size_t>(i)];
  if (node.process.alive() || node.buried) return;
  SIM_LOG(world_, node.process.name(), "starts");
  node.process.Start();
  node.worker = std::make_unique<SimWorker>(
      &node.process, &plane_, &pool_, node.options,
      [this, process = &node.process](OnRouterReached reached) { Reach(process, std::move(reached)); },
      [this, i] {
        world_->Count("crashes by poison");
        // Not from inside of its own step.
        world_->After(absl::ZeroDuration(), [this, i] { CrashWorker(i, Restart::kSoon); });
      });
}

absl::Duration Cluster::RestartDelay() { return world_->random().Between(options_.restart_min, options_.restart_max); }

void Cluster::CrashWorker(int i, Restart restart) {
  Worker& node = *workers_[static_cast<size_t>(i)];
  if (!node.process.alive()) return;
  SIM_LOG(world_, node.process.name(), "crashes");
  node.process.Kill();
  node.worker.reset();
  if (restart == Restart::kWhenHealed && !healed_) return;
  world_->After(RestartDelay(), [this, i] {
    if (!workers_[static_cast<size_t>(i)]->gone) StartWorker(i);
  });
}

void Cluster::StopRouter(Router& node) {
  SIM_LOG(world_, node.process.name(), "ends");
  node.process.Kill();
  node.router->Break();
  node.router.reset();
}

void Cluster::CrashRouter() {
  Router* const node = routers_.back().get();
  if (!node->process.alive()) return;
  StopRouter(*node);
  world_->After(RestartDelay(), [this, node] {
    if (node == routers_.back().get() && !node->process.alive()) StartRouter(*node);
  });
}

void Cluster::CrashGateway(int i) {
  Gateway& node = *gateways_[static_cast<size_t>(i)];
  if (!node.process.alive()) return;
  SIM_LOG(world_, node.process.name(), "crashes");
  node.process.Kill();
  node.gateway->Break();
  node.gateway.reset();
  for (auto& [id, call] : calls_) {
    if (call.gateway != i || call.number == 0 || call.state != Call::State::kOpen) continue;
    call.number = 0;
    // Its caller sees a broken connection; what was not accepted can be tried again.
    if (call.record.accepted()) {
      call.state = Call::State::kBroken;
      world_->Count("calls broken by a gateway's end");
    } else {
      call.record = {};
      world_->After(kCallerPause, [this, id = id] { Submit(id); });
    }
  }
  world_->After(RestartDelay(), [this, i] {
    if (!gateways_[static_cast<size_t>(i)]->process.alive()) StartGateway(i);
  });
}

void Cluster::ResetConnection(const Process& process) {
  if (const std::shared_ptr<Connection> connection = connections_[&process].lock()) connection->BreakByFault();
}

void Cluster::RestartRouter() {
  Router* const node = routers_.back().get();
  if (!node->process.runs()) return;
  const absl::Duration grace = world_->random().Between(absl::ZeroDuration(), absl::Seconds(2));
  node->router->Shutdown(grace);
  node->process.After(grace + absl::Milliseconds(100), [this, node] {
    if (node == routers_.back().get()) return CrashRouter();
    StopRouter(*node);
  });
}

void Cluster::ReplaceRouter() {
  routers_.push_back(std::make_unique<Router>(world_, fmt::format("router{}", routers_.size())));
  Connect(&routers_.back()->process);
  SIM_LOG(world_, routers_.back()->process.name(), "takes the place of the router");
  StartRouter(*routers_.back());
}

void Cluster::LeaveWorker(int i) {
  Worker& node = *workers_[static_cast<size_t>(i)];
  if (!node.process.runs() || node.gone) return;
  SIM_LOG(world_, node.process.name(), "wants to leave");
  node.gone = true;
  node.worker->Leave([this, i] {
    world_->After(absl::ZeroDuration(), [this, i] {
      Worker& left = *workers_[static_cast<size_t>(i)];
      if (!left.process.alive()) return;
      SIM_LOG(world_, left.process.name(), "has left");
      world_->Count("workers left");
      left.process.Kill();
      left.worker.reset();
      if (healed_) world_->After(RestartDelay(), [this, i] { StartWorker(i); });
    });
  });
}

void Cluster::BuryWorker(int i) {
  workers_[static_cast<size_t>(i)]->buried = true;
  CrashWorker(i, Restart::kWhenHealed);
}

int Cluster::AddWorker(const SimWorker::Options& options) {
  workers_.push_back(std::make_unique<Worker>(world_, options));
  Connect(&workers_.back()->process);
  const int index = workers() - 1;
  StartWorker(index);
  return index;
}

void Cluster::Heal() {
  healed_ = true;
  for (auto& router : routers_) {
    if (router != routers_.back() && router->process.alive()) StopRouter(*router);
  }
  for (int i = 0; i < workers(); ++i) {
    Worker& node = *workers_[static_cast<size_t>(i)];
    if (node.worker) node.worker->set_slowness(1);
    node.gone = false;
    if (node.process.alive()) continue;
    world_->After(RestartDelay(), [this, i] { StartWorker(i); });
  }
}

void Cluster::StartCall(int exam) {
  const uint64_t id = ++last_call_;
  calls_[id].exam = exam;
  world_->Count("calls");
  Submit(id);
}

void Cluster::Submit(uint64_t id) {
  Call& call = calls_.at(id);
  if (call.state != Call::State::kOpen) return;
  std::vector<int> alive;  // as a load balancer knows it
  for (int i = 0; i < gateways(); ++i) {
    if (gateways_[static_cast<size_t>(i)]->process.alive()) alive.push_back(i);
  }
  if (alive.empty()) {
    world_->After(kCallerPause, [this, id] { Submit(id); });
    return;
  }
  call.gateway = world_->random().Pick(alive);
  call.number = ++last_number_;
  Gateway& node = *gateways_[static_cast<size_t>(call.gateway)];
  node.process.Run([this, id, number = call.number, &node, exam = call.exam] {
    node.gateway->Start(number, GetExam(exam).call,
                        [this, id, number](const CallEvent& event) { OnEvent(id, number, event); });
  });
}

void Cluster::CancelCall(uint64_t id) {
  Call& call = calls_.at(id);
  if (call.state != Call::State::kOpen) return;
  call.state = Call::State::kCancelled;
  world_->Count("calls cancelled");
  if (call.number == 0) return;
  Gateway& node = *gateways_[static_cast<size_t>(call.gateway)];
  node.process.Run([&node, number = std::exchange(call.number, 0)] { node.gateway->Cancel(number); });
}

void Cluster::OnEvent(uint64_t id, uint64_t number, const CallEvent& event) {
  Call& call = calls_.at(id);
  if (call.number != number) return;  // the caller has gone
  const Exam& exam = GetExam(call.exam);
  world_->Trace(id << 8 | event.index());
  std::string wrong = call.record.Add(event);
  if (wrong.empty()) wrong = call.record.DifferenceFrom(exam.answer);
  if (!wrong.empty()) return world_->Fail(fmt::format("call {} (exam {}): {}", id, call.exam, wrong));
  if (call.record.failed()) return OnError(id, call);
  if (!call.record.done()) return;
  if (exam.poison) return world_->Fail(fmt::format("call {} is poison and has come to a good end", id));
  call.number = 0;
  call.state = Call::State::kDone;
  world_->Count("calls done");
  SIM_LOG(world_, "caller", fmt::format("call {} is done", id));
}

void Cluster::OnError(uint64_t id, Call& call) {
  call.number = 0;
  const ApiError& error = call.record.error();
  SIM_LOG(world_, "caller",
          fmt::format("call {} fails, {}: {} {}", id, call.record.accepted() ? "accepted" : "not accepted",
                      absl::StatusCodeToString(error.status), error.message));
  if (call.record.accepted()) {
    call.state = Call::State::kFailed;
    const bool quarantined = error.status == absl::StatusCode::kAborted;  // the referee has looked at it
    if (!GetExam(call.exam).poison && quarantined) return world_->Count("unlucky calls quarantined");
    if (!GetExam(call.exam).poison) {
      return world_->Fail(fmt::format("call {} (exam {}) was accepted and failed: {} {}", id, call.exam,
                                      absl::StatusCodeToString(error.status), error.message));
    }
    world_->Count("poison quarantined");
    return;
  }
  const bool quarantined = error.status == absl::StatusCode::kAborted;
  const bool too_large = error.status == absl::StatusCode::kInvalidArgument && options_.small_workers;  // for those now
  if (!too_large && error.status != absl::StatusCode::kUnavailable &&
      error.status != absl::StatusCode::kResourceExhausted) {
    if (GetExam(call.exam).poison || quarantined) {
      call.state = Call::State::kFailed;
      return;
    }
    return world_->Fail(fmt::format("call {} (exam {}) was refused: {} {}", id, call.exam,
                                    absl::StatusCodeToString(error.status), error.message));
  }
  world_->Count("refusals");
  call.record = {};
  world_->After(kCallerPause, [this, id] { Submit(id); });
}

int Cluster::calls_open() const {
  return static_cast<int>(
      std::ranges::count_if(calls_, [](const auto& entry) { return entry.second.state == Call::State::kOpen; }));
}

uint64_t Cluster::RandomOpenCall() {
  std::vector<uint64_t> open;
  for (const auto& [id, call] : calls_) {
    if (call.state == Call::State::kOpen) open.push_back(id);
  }
  return open.empty() ? 0 : world_->random().Pick(open);
}

std::string Cluster::DescribeOpenCalls() const {
  std::string text;
  for (const auto& [id, call] : calls_) {
    if (call.state != Call::State::kOpen) continue;
    text += fmt::format(" call {} (exam {}{}{})", id, call.exam, GetExam(call.exam).poison ? ", poison" : "",
                        call.record.accepted() ? ", accepted" : ", not accepted");
  }
  return text;
}

bool Cluster::Ready() const {
  const Router& node = *routers_.back();
  return node.process.runs() && node.router->ready();
}

void Cluster::CheckEmpty() {
  const v1::GetStatusResponse status = routers_.back()->router->Status();
  if (status.sequences_running() != 0 || status.sequences_waiting() != 0 || status.kv_blocks_used() != 0) {
    world_->Fail(
        fmt::format("all calls have ended, and the router holds {} running and {} waiting sequences, {} blocks",
                    status.sequences_running(), status.sequences_waiting(), status.kv_blocks_used()));
  }
  for (const auto& node : workers_) {
    if (!node->worker || !node->worker->serves()) continue;  // others forget all when their next epoch begins
    // But what is kept for those that begin alike: that, and no more.
    int cached = 0, snapshots = 0;
    for (const v1::WorkerInfo& info : status.workers()) {
      if (info.name() != node->options.name) continue;
      cached = static_cast<int>(info.kv_blocks_cached());
      snapshots = static_cast<int>(info.snapshots());
    }
    if (node->worker->sequences() == 0 && node->worker->kv_blocks_used() == cached &&
        node->worker->snapshots() == snapshots) {
      continue;
    }
    world_->Fail(
        fmt::format("all calls have ended, and {} holds {} sequences, {} blocks and {} snapshots; the router "
                    "knows of {} blocks and {} snapshots",
                    node->options.name, node->worker->sequences(), node->worker->kv_blocks_used(),
                    node->worker->snapshots(), cached, snapshots));
  }
}

}  // namespace braid::simulation
