#include "tests/simulation/network.h"

#include <algorithm>

#include "base/check.h"

namespace braid::simulation {
namespace {

// What TCP waits before it sends a lost segment again, the second time twice that.
constexpr absl::Duration kResendMin = absl::Milliseconds(200), kResendMax = absl::Milliseconds(600);

}  // namespace

void Network::Cut(const Process* from, const Process* to) { ++link(from, to).cuts; }

void Network::Heal(const Process* from, const Process* to) {
  Link& healed = link(from, to);
  CHECK(healed.cuts > 0);
  if (--healed.cuts > 0) return;
  healed.sound_since = world_->now();
  for (std::function<void()>& work : std::exchange(healed.stalled, {})) {
    world_->After(world_->random().Between(absl::ZeroDuration(), kResendMax), std::move(work));
  }
}

bool Network::sound_since(const Process* a, const Process* b, absl::Time time) {
  for (const Link* way : {&link(a, b), &link(b, a)}) {
    if (way->cuts > 0 || way->loss > 0 || way->slow > absl::ZeroDuration() || way->sound_since > time) return false;
  }
  return true;
}

absl::Time Network::Arrival(const Process* from, const Process* to) {
  const Link& way = link(from, to);
  Random& random = world_->random();
  absl::Duration delay = way.delay + (way.jitter + way.slow) * random.Unit();
  if (way.loss > 0 && random.Chance(way.loss)) delay += random.Between(kResendMin, kResendMax);
  return world_->now() + delay;
}

void Network::Carry(const Process* from, const Process* to, absl::Time when, std::function<void()> work) {
  world_->At(when, [this, from, to, work = std::move(work)]() mutable {
    if (!cut(from, to)) return work();
    link(from, to).stalled.push_back(
        [this, from, to, work = std::move(work)]() mutable { Carry(from, to, world_->now(), std::move(work)); });
  });
}

Network::~Network() {
  for (const std::weak_ptr<Pipe::State>& pipe : pipes_) {
    if (const std::shared_ptr<Pipe::State> state = pipe.lock()) std::exchange(state->under_way, {}).clear();
  }
}

void Network::Pipe::Send(std::function<void()> deliver) {
  last_ = std::max(last_, network_->Arrival(from_, to_));
  state_->under_way.emplace_back(last_, std::move(deliver));
  if (!std::exchange(state_->moving, true)) Move(network_, from_, to_, state_);
}

void Network::Pipe::Move(Network* network, const Process* from, const Process* to,
                         const std::shared_ptr<State>& state) {
  network->Carry(from, to, state->under_way.front().first, [network, from, to, state] {
    if (state->dropped) return;
    const std::function<void()> deliver = std::move(state->under_way.front().second);
    state->under_way.pop_front();
    state->moving = !state->under_way.empty();
    if (state->moving) Move(network, from, to, state);
    deliver();
  });
}

Connection::Connection(Network* network, Process* dialer, Process* acceptor)
    : network_(network), number_(network->NextNumber()) {
  ends_[0].process = dialer;
  ends_[1].process = acceptor;
  for (int end = 0; end < 2; ++end) {
    ends_[end].incarnation = ends_[end].process->incarnation();
    ends_[end].out = std::make_unique<Network::Pipe>(network, ends_[end].process, ends_[1 - end].process);
  }
}

void Connection::Send(int end, std::function<void()> deliver) {
  if (!ends_[end].open || cut_) return;
  if (network_->break_chance() > 0 && network_->world()->random().Chance(network_->break_chance())) {
    network_->world()->Count("connections broken between messages");
    return BreakByFault(/*lose=*/false);
  }
  ends_[end].out->Send([self = shared_from_this(), to = 1 - end, deliver = std::move(deliver)]() mutable {
    End& receiver = self->ends_[to];
    if (!receiver.open || receiver.incarnation != receiver.process->incarnation()) return;
    receiver.process->Run([self, to, deliver = std::move(deliver)] {
      if (self->ends_[to].open) deliver();
    });
  });
}

void Connection::Break(int end) {
  if (ends_[end].open && network_->world()->random().Chance(0.5)) {
    // What was sent and has not arrived never will.
    ends_[end].out->Drop();
    ends_[end].out = std::make_unique<Network::Pipe>(network_, ends_[end].process, ends_[1 - end].process);
  }
  Leave(end, Ending::kBroken);
}

void Connection::BreakByFault(bool lose) {
  cut_ = true;
  for (End& end : ends_) {
    if (lose) end.out->Drop();
  }
  for (int end = 0; end < 2; ++end) {
    // Each end notices when it next sends something, or its keepalive does.
    network_->world()->After(network_->world()->random().Between(absl::ZeroDuration(), absl::Milliseconds(400)),
                             [self = shared_from_this(), end] { self->Learn(end, Ending::kBroken); });
  }
}

void Connection::Leave(int end, Ending ending) {
  if (!ends_[end].open) return;
  ends_[end].open = false;
  ends_[end].out->Send([self = shared_from_this(), end, ending] { self->Learn(1 - end, ending); });
  ends_[end].on_end = nullptr;
}

void Connection::Learn(int end, Ending ending) {
  End& learns = ends_[end];
  if (!learns.open || learns.incarnation != learns.process->incarnation()) return;
  learns.process->Run([self = shared_from_this(), end, ending] {
    if (!self->ends_[end].open) return;
    self->ends_[end].open = false;
    if (OnEnd on_end = std::exchange(self->ends_[end].on_end, nullptr)) on_end(ending);
  });
}

}  // namespace braid::simulation
