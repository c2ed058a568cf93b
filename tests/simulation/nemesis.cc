#include "tests/simulation/nemesis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace braid::simulation {
namespace {

constexpr double kKindChance = 0.25;  // that a seed has a kind of fault at all
constexpr double kSparesMax = 3;

}  // namespace

// per_second is how often a kind comes if a seed has it, at the most.
std::vector<Nemesis::Kind> Nemesis::AllKinds() {
  return {
      {"worker crash", 0.8, [](Nemesis* n) { n->cluster_->CrashWorker(n->AnyWorker(), Cluster::Restart::kSoon); }},
      {"worker crash for long", 0.2,
       [](Nemesis* n) { n->cluster_->CrashWorker(n->AnyWorker(), Cluster::Restart::kWhenHealed); }},
      {"host loss", 0.2, [](Nemesis* n) { n->LoseHost(); }},
      {"router crash", 0.4, [](Nemesis* n) { n->cluster_->CrashRouter(); }},
      {"router restart", 0.2, [](Nemesis* n) { n->cluster_->RestartRouter(); }},
      {"router replaced", 0.15, [](Nemesis* n) { n->cluster_->ReplaceRouter(); }},
      {"gateway crash", 0.2, [](Nemesis* n) { n->cluster_->CrashGateway(n->AnyGateway()); }},
      {"worker pause", 0.6, [](Nemesis* n) { n->Pause(n->cluster_->worker_process(n->AnyWorker())); }},
      {"router pause", 0.4, [](Nemesis* n) { n->Pause(n->cluster_->router_process()); }},
      {"gateway pause", 0.3, [](Nemesis* n) { n->Pause(n->cluster_->gateway_process(n->AnyGateway())); }},
      {"isolation", 0.3, [](Nemesis* n) { n->Isolate(); }},
      {"split", 0.2, [](Nemesis* n) { n->SplitInTwo(); }},
      {"pair cut", 0.5, [](Nemesis* n) { n->CutOnePair(n->Span()); }},
      {"swizzle", 0.15, [](Nemesis* n) { n->Swizzle(); }},
      {"reset", 0.5, [](Nemesis* n) { n->cluster_->ResetConnection(n->AnyProcess()); }},
      {"slow link", 0.5, [](Nemesis* n) { n->SlowLink(); }},
      {"slow worker", 0.4,
       [](Nemesis* n) {
         const int i = n->AnyWorker();
         if (SimWorker* const worker = n->cluster_->worker(i)) worker->set_slowness(n->random_.Chance(0.5) ? 5 : 50);
         n->For(n->Span(), [n, i] {
           if (SimWorker* const worker = n->cluster_->worker(i)) worker->set_slowness(1);
         });
       }},
      {"router clock jump", 0.3, [](Nemesis* n) { n->JumpRouterClock(); }},
      {"leave", 0.3, [](Nemesis* n) { n->cluster_->LeaveWorker(n->AnyWorker()); }},
      {"join", 0.3, [](Nemesis* n) { n->Join(); }},
      {"cancel", 2,
       [](Nemesis* n) {
         if (const uint64_t id = n->cluster_->RandomOpenCall()) n->cluster_->CancelCall(id);
       }},
  };
}

Nemesis::Nemesis(Cluster* cluster)
    : cluster_(cluster), world_(cluster->world()), network_(&cluster->network()), random_(world_->random()) {
  const double chance = random_.Chance(0.1) ? 0.7 : kKindChance;
  for (Kind& kind : AllKinds()) {
    if (!random_.Chance(chance)) continue;
    kind.per_second *= 0.1 + 0.9 * random_.Unit();
    kinds_.push_back(std::move(kind));
  }
}

void Nemesis::Start() {
  if (random_.Chance(0.15)) network_->set_stale_chance(0.005 + 0.02 * random_.Unit());
  if (random_.Chance(0.1)) network_->set_break_chance(0.01 * random_.Unit());
  for (const Kind& kind : kinds_) {
    SIM_LOG(world_, "nemesis", fmt::format("will use {}, {:.2f} per second", kind.name, kind.per_second));
    ScheduleNext(&kind);
  }
}

void Nemesis::ScheduleNext(const Kind* kind) {
  const double seconds = -std::log(1 - random_.Unit()) / kind->per_second;
  world_->After(absl::Seconds(seconds), [this, kind] {
    if (healed_) return;
    SIM_LOG(world_, "nemesis", kind->name);
    world_->Count(fmt::format("fault: {}", kind->name));
    kind->strike(this);
    ScheduleNext(kind);
  });
}

void Nemesis::For(absl::Duration time, std::function<void()> undo) {
  const uint64_t id = ++last_active_;
  if (time == absl::InfiniteDuration()) return;
  active_[id] = std::move(undo);
  world_->After(time, [this, id] {
    const auto found = active_.find(id);
    if (found == active_.end()) return;
    const std::function<void()> due = std::move(found->second);
    active_.erase(found);
    due();
  });
}

void Nemesis::Heal() {
  healed_ = true;
  network_->set_stale_chance(0);
  network_->set_break_chance(0);
  for (auto& [id, undo] : std::exchange(active_, {})) {
    world_->After(random_.Between(absl::ZeroDuration(), absl::Milliseconds(500)), std::move(undo));
  }
  if (!cluster_->can_lose_a_worker()) return;
  if (random_.Chance(0.1)) {
    world_->Count("fault: pair cut for ever");
    CutOnePair(absl::InfiniteDuration());
  } else if (random_.Chance(0.1)) {
    world_->Count("fault: worker dead for ever");
    cluster_->BuryWorker(AnyWorker());
  } else if (random_.Chance(0.1)) {
    world_->Count("fault: worker silent for ever");
    const Process& silent = cluster_->worker_process(AnyWorker());
    SIM_LOG(world_, silent.name(), "is never heard of again");
    for (Process* other : cluster_->processes()) {
      if (other != &silent) CutBothWays(&silent, other, absl::InfiniteDuration());
    }
  }
}

// Most faults are short, some are long.
absl::Duration Nemesis::Span() {
  return random_.Chance(0.3) ? random_.Between(absl::Seconds(1), absl::Seconds(8))
                             : random_.Between(absl::Milliseconds(20), absl::Milliseconds(1500));
}

void Nemesis::Cut(const Process* from, const Process* to, absl::Duration time) {
  network_->Cut(from, to);
  For(time, [this, from, to] { network_->Heal(from, to); });
}

void Nemesis::CutBothWays(const Process* a, const Process* b, absl::Duration time) {
  Cut(a, b, time);
  Cut(b, a, time);
}

void Nemesis::Pause(Process& process) {
  if (!process.runs()) return;
  process.Pause();
  SIM_LOG(world_, process.name(), "is stopped");
  For(Span(), [this, &process, incarnation = process.incarnation()] {
    if (process.incarnation() != incarnation) return;
    SIM_LOG(world_, process.name(), "goes on");
    process.Resume();
  });
}

Process& Nemesis::AnyProcess() { return *random_.Pick(cluster_->processes()); }

// The machine is gone, and nobody is there to reset its connections.
void Nemesis::LoseHost() {
  const int i = AnyWorker();
  Process& lost = cluster_->worker_process(i);
  const absl::Duration time = Span();
  for (Process* other : cluster_->processes()) {
    if (other != &lost) CutBothWays(&lost, other, time);
  }
  cluster_->CrashWorker(i, Cluster::Restart::kSoon);
}

void Nemesis::Isolate() {
  Process& alone = AnyProcess();
  const absl::Duration time = Span();
  const int way = random_.Between(0, 3);  // 0: nobody hears it, 1: it hears nobody, else both
  SIM_LOG(world_, alone.name(), fmt::format("is isolated, way {}", way));
  for (Process* other : cluster_->processes()) {
    if (other == &alone) continue;
    if (way != 1) Cut(&alone, other, time);
    if (way != 0) Cut(other, &alone, time);
  }
}

void Nemesis::SplitInTwo() {
  std::vector<Process*> sides[2];
  for (Process* process : cluster_->processes()) sides[random_.Below(2)].push_back(process);
  const absl::Duration time = Span();
  const bool one_way = random_.Chance(0.3);
  for (const Process* a : sides[0]) {
    for (const Process* b : sides[1]) {
      Cut(a, b, time);
      if (!one_way) Cut(b, a, time);
    }
  }
}

void Nemesis::CutOnePair(absl::Duration time) {
  if (cluster_->workers() < 2) return;
  const int i = AnyWorker();
  const int j =
      (i + 1 + static_cast<int>(random_.Below(static_cast<uint64_t>(cluster_->workers() - 1)))) % cluster_->workers();
  Process &a = cluster_->worker_process(i), &b = cluster_->worker_process(j);
  SIM_LOG(world_, "nemesis", fmt::format("cuts {} from {}", a.name(), b.name()));
  Cut(&a, &b, time);
  if (random_.Chance(0.7)) Cut(&b, &a, time);
}

// Stops the links of some processes one by one, and opens them again in another order.
void Nemesis::Swizzle() {
  for (Process* process : cluster_->processes()) {
    if (!random_.Chance(0.5)) continue;
    world_->After(random_.Between(absl::ZeroDuration(), absl::Seconds(1)), [this, process] {
      if (healed_) return;
      const absl::Duration time = random_.Between(absl::Milliseconds(500), absl::Seconds(4));
      for (Process* other : cluster_->processes()) {
        if (other != process) CutBothWays(process, other, time);
      }
    });
  }
}

void Nemesis::SlowLink() {
  Process &a = AnyProcess(), &b = AnyProcess();
  if (&a == &b) return;
  Link& link = network_->link(&a, &b);
  if (random_.Chance(0.5)) {
    link.slow = absl::Milliseconds(500);
  } else {
    link.loss = 0.05;
  }
  For(Span(), [this, &a, &b] {
    Link& healed = network_->link(&a, &b);
    healed.loss = 0;
    healed.slow = absl::ZeroDuration();
    healed.sound_since = world_->now();
  });
}

void Nemesis::JumpRouterClock() {
  const absl::Duration by = random_.Between(absl::Seconds(-5), absl::Seconds(5));
  SIM_LOG(world_, "nemesis", fmt::format("moves the router's clock by {:.1f} s", absl::ToDoubleSeconds(by)));
  cluster_->router_process().JumpClock(by);
}

void Nemesis::Join() {
  if (joined_ >= kSparesMax) return;
  SimWorker::Options options = cluster_->worker_options(AnyWorker());
  options.name = fmt::format("spare{}", joined_++);
  cluster_->AddWorker(options);
}

}  // namespace braid::simulation
