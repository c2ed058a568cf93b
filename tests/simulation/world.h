#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "tests/simulation/random.h"

namespace braid::simulation {

// Virtual time: a queue of events, executed in the order of (time, number). What happens depends on the seed alone.
class World {
 public:
  World(uint64_t seed, bool log);
  World(const World&) = delete;
  ~World();

  absl::Time now() const { return now_; }
  absl::Duration elapsed() const;
  Random& random() { return random_; }

  void At(absl::Time when, std::function<void()> work);
  void After(absl::Duration delay, std::function<void()> work) { At(now_ + delay, std::move(work)); }
  // Executes one event; false if there is none, or the simulation has failed. Time must go on: so many events that
  // something runs wild are a failure.
  bool Step();

  // Two runs of one seed must give the same sequence of these.
  void Trace(uint64_t value) { trace_ = (trace_ ^ value) * 0x9FB21C651E98DF25u + 0x632BE59BD9B4E019u; }
  uint64_t trace() const { return trace_; }

  bool logging() const { return log_; }
  void Log(std::string_view who, const std::string& what) const;  // REQUIRES: logging()

  // How often something interesting happened.
  void Count(std::string_view what, int64_t times = 1);
  const std::map<std::string, int64_t, std::less<>>& counts() const { return counts_; }

  // An invariant is broken. The first one is kept, and ends the simulation.
  void Fail(std::string what);
  const std::string& failure() const { return failure_; }
  bool failed() const { return !failure_.empty(); }

 private:
  struct Event {
    absl::Time when;
    uint64_t number = 0;
    std::function<void()> work;
  };
  static bool Later(const Event& a, const Event& b);

  const bool log_;
  Random random_;
  absl::Time now_;
  uint64_t next_number_ = 0;
  std::vector<Event> events_;  // a heap
  uint64_t trace_ = 0;
  std::map<std::string, int64_t, std::less<>> counts_;
  std::string failure_;
};

// Formats only if somebody reads it.
#define SIM_LOG(world, who, what)                    \
  do {                                               \
    if ((world)->logging()) (world)->Log(who, what); \
  } while (false)

// A program on a machine. It can crash and start again (another incarnation, which knows nothing of the one before), be
// stopped for a while (its work piles up and is done when it goes on), and have a clock that is wrong.
class Process {
 public:
  Process(World* world, std::string name) : world_(world), name_(std::move(name)) {}
  Process(const Process&) = delete;

  const std::string& name() const { return name_; }
  World* world() const { return world_; }
  bool alive() const { return alive_; }
  bool paused() const { return paused_; }
  bool runs() const { return alive_ && !paused_; }
  absl::Time runs_since() const { return runs_since_; }
  uint64_t incarnation() const { return incarnation_; }
  // What the process takes for the time.
  absl::Time Now() const { return world_->now() + clock_offset_; }
  void JumpClock(absl::Duration by) { clock_offset_ += by; }

  // For this incarnation: now, or when it goes on.
  void Run(std::function<void()> work);
  void After(absl::Duration delay, std::function<void()> work);

  void Start();
  void Kill();
  void Pause() { paused_ = alive_; }
  void Resume();

 private:
  World* const world_;
  const std::string name_;
  bool alive_ = false, paused_ = false;
  absl::Time runs_since_;
  uint64_t incarnation_ = 0;
  absl::Duration clock_offset_;
  std::deque<std::function<void()>> held_;  // while paused
};

}  // namespace braid::simulation
