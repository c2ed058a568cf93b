#include "tests/simulation/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace braid::simulation {
namespace {

constexpr int64_t kEpochSeconds = 1'700'000'000;
constexpr uint64_t kEventsMax = 20'000'000;  // a hundred times what a seed takes

}  // namespace

World::World(uint64_t seed, bool log) : log_(log), random_(seed), now_(absl::FromUnixSeconds(kEpochSeconds)) {
  events_.reserve(1024);
}
World::~World() = default;

absl::Duration World::elapsed() const { return now_ - absl::FromUnixSeconds(kEpochSeconds); }

bool World::Later(const Event& a, const Event& b) { return a.when != b.when ? a.when > b.when : a.number > b.number; }

void World::At(absl::Time when, std::function<void()> work) {
  events_.push_back({std::max(when, now_), next_number_++, std::move(work)});
  std::push_heap(events_.begin(), events_.end(), &World::Later);
}

bool World::Step() {
  if (events_.empty() || failed()) return false;
  std::pop_heap(events_.begin(), events_.end(), &World::Later);
  Event event = std::move(events_.back());
  events_.pop_back();
  now_ = event.when;
  if (event.number > kEventsMax) Fail("something runs wild");
  Trace(static_cast<uint64_t>(absl::ToUnixNanos(now_)) ^ event.number);
  event.work();
  return true;
}

void World::Log(std::string_view who, const std::string& what) const {
  fmt::print("{:10.3f} ms  {:<10} {}\n", absl::ToDoubleMilliseconds(elapsed()), who, what);
}

void World::Count(std::string_view what, int64_t times) {
  const auto found = counts_.find(what);
  if (found != counts_.end()) {
    found->second += times;
  } else {
    counts_.emplace(what, times);
  }
}

void World::Fail(std::string what) {
  if (failed()) return;
  failure_ = fmt::format("after {:.3f} ms: {}", absl::ToDoubleMilliseconds(elapsed()), what);
  SIM_LOG(this, "FAILED", failure_);
}

void Process::Run(std::function<void()> work) {
  if (!alive_) return;
  if (paused_) {
    held_.push_back(std::move(work));
  } else {
    work();
  }
}

void Process::After(absl::Duration delay, std::function<void()> work) {
  if (!alive_) return;
  world_->After(delay, [this, incarnation = incarnation_, work = std::move(work)]() mutable {
    if (incarnation == incarnation_) Run(std::move(work));
  });
}

void Process::Start() {
  runs_since_ = world_->now();
  alive_ = true;
  paused_ = false;
}

void Process::Kill() {
  ++incarnation_;
  alive_ = paused_ = false;
  held_.clear();
}

void Process::Resume() {
  if (!paused_) return;
  paused_ = false;
  runs_since_ = world_->now();
  // What waited is done in order, one event each: it may end, stop or kill the process.
  for (std::function<void()>& work : std::exchange(held_, {})) After(absl::ZeroDuration(), std::move(work));
}

}  // namespace braid::simulation
