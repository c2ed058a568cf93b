#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "tests/simulation/world.h"

namespace braid::simulation {

// A function with a stack of its own that can stop in the middle and go on later, always on the same thread. So code
// that blocks (a step that waits for its peers) runs in a simulation that has one thread and no time of its own.
class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  ~Fiber();  // REQUIRES: done()
  Fiber(const Fiber&) = delete;

  void Resume();  // from outside, until it yields or ends
  void Yield();   // from inside
  bool done() const { return done_; }

 private:
  struct Context;
  static void Enter(unsigned low, unsigned high);

  std::function<void()> body_;
  std::unique_ptr<Context> context_;
  bool done_ = false;
};

// A thread of a simulated process, for one piece of work that blocks.
class Task {
 public:
  explicit Task(Process* process) : process_(process) {}
  // Runs `body` to its end: whatever it waits for is over at once, and it must do nothing that others could see.
  ~Task();
  Task(const Task&) = delete;

  // Soon. REQUIRES: !busy().
  void Start(std::function<void()> body);
  bool busy() const { return fiber_ != nullptr; }

  // The one whose code is running; null: none's.
  static Task* Current();
  // From inside.
  void Sleep(absl::Duration time);
  // Until Wake() or `deadline`. May return early.
  void Wait(absl::Time deadline);
  // The process has died under it.
  bool cut() const { return cut_; }

  // From outside: goes on soon, if it waits.
  void Wake();

 private:
  void Go();

  Process* const process_;
  std::unique_ptr<Fiber> fiber_;
  uint64_t wait_ = 0;  // numbers the waits, so that an old alarm wakes nobody
  bool waits_ = false, cut_ = false;
};

}  // namespace braid::simulation
