#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/simulation/world.h"

namespace braid::simulation {

// The way from one process to another, one direction. What is sent while it is cut is not lost: it waits, as with TCP,
// and comes when the way is there again, unless the connection has been given up by then.
struct Link {
  absl::Duration delay = absl::Microseconds(200);
  absl::Duration jitter = absl::Microseconds(300);
  absl::Duration slow;  // up to so much more
  double loss = 0;      // share of messages that are sent again: much later, and what follows them too
  int cuts = 0;         // faults that cut it at the moment
  absl::Time sound_since = absl::InfinitePast();  // no fault has touched it
  std::vector<std::function<void()>> stalled;     // to be tried again when the last cut heals
};

class Network {
 public:
  explicit Network(World* world) : world_(world) {}
  ~Network();  // what is still under way holds its connection, which holds what is under way

  World* world() const { return world_; }
  uint64_t NextNumber() { return ++last_number_; }
  // How often, when something is sent, something of an epoch that is over comes once more.
  double stale_chance() const { return stale_chance_; }
  void set_stale_chance(double chance) { stale_chance_ = chance; }
  // How often a connection breaks between two messages of one breath.
  double break_chance() const { return break_chance_; }
  void set_break_chance(double chance) { break_chance_ = chance; }
  Link& link(const Process* from, const Process* to) { return links_[{from, to}]; }
  bool cut(const Process* from, const Process* to) { return link(from, to).cuts > 0; }
  bool reachable(const Process* a, const Process* b) { return !cut(a, b) && !cut(b, a); }
  // Whether no fault has touched the way between them since then.
  bool sound_since(const Process* a, const Process* b, absl::Time time);
  void Cut(const Process* from, const Process* to);
  void Heal(const Process* from, const Process* to);

  // When a message sent now arrives, if nothing cuts the link.
  absl::Time Arrival(const Process* from, const Process* to);
  // `work` at `when`, or when the link is not cut any more.
  void Carry(const Process* from, const Process* to, absl::Time when, std::function<void()> work);

  // Messages between two processes in order, one direction.
  class Pipe {
   public:
    Pipe(Network* network, const Process* from, const Process* to) : network_(network), from_(from), to_(to) {
      network->pipes_.push_back(state_);
    }
    Pipe(const Pipe&) = delete;
    // `deliver` runs when everything sent before has been delivered. The pipe may be gone by then; `deliver` must know
    // what it needs.
    void Send(std::function<void()> deliver);
    // What is under way never arrives.
    void Drop() { state_->dropped = true; }

   private:
    friend class Network;
    struct State {
      std::deque<std::pair<absl::Time, std::function<void()>>> under_way;
      bool moving = false, dropped = false;
    };
    static void Move(Network* network, const Process* from, const Process* to, const std::shared_ptr<State>& state);

    Network* const network_;
    const Process* const from_;
    const Process* const to_;
    absl::Time last_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
  };

 private:
  std::vector<std::weak_ptr<Pipe::State>> pipes_;
  World* const world_;
  uint64_t last_number_ = 0;
  double stale_chance_ = 0, break_chance_ = 0;
  // Never walked through: the order of pointers is not the same in two runs.
  std::map<std::pair<const Process*, const Process*>, Link> links_;
};

// One gRPC connection between two incarnations of processes: ordered messages both ways, until one end closes it, dies,
// gives it up, or a fault breaks it. The other end learns of it when the news gets through, never while the link is
// cut.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  enum class Ending { kClosed, kBroken };
  // Called in the process it belongs to, once, not for what the end did itself.
  using OnEnd = std::function<void(Ending)>;

  Connection(Network* network, Process* dialer, Process* acceptor);

  uint64_t number() const { return number_; }

  // `end`: 0 the dialer's, 1 the acceptor's.
  void SetOnEnd(int end, OnEnd on_end) { ends_[end].on_end = std::move(on_end); }
  bool open(int end) const { return ends_[end].open; }
  // Runs `deliver` in the other process. Nothing happens if this end is closed.
  void Send(int end, std::function<void()> deliver);
  // The other end learns behind what was sent.
  void Close(int end) { Leave(end, Ending::kClosed); }
  // What was sent may be lost.
  void Break(int end);
  bool cut() const { return cut_; }
  Process* process(int end) const { return ends_[end].process; }
  // A fault between the two: each learns of it in its own time. `lose`: what is under way never arrives.
  void BreakByFault(bool lose = true);

 private:
  struct End {
    Process* process = nullptr;
    uint64_t incarnation = 0;
    bool open = true;
    std::unique_ptr<Network::Pipe> out;
    OnEnd on_end;
  };
  void Leave(int end, Ending ending);
  void Learn(int end, Ending ending);

  Network* const network_;
  const uint64_t number_;
  End ends_[2];
  bool cut_ = false;  // by a fault: nothing gets through any more, even if nobody knows yet
};

}  // namespace braid::simulation
