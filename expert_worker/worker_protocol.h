#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// What a worker does about the router's messages (worker.proto), without doing it: messages and results go in, orders
// and answers come out. It knows at most two epochs, the serving one and the next one, and refuses everything that
// belongs to neither. The rim carries the orders out, on two threads: set-ups on one, steps on the other, so that a
// set-up disturbs no step; the simulator carries them out in virtual time.
//
//    next:     none --Prepare--> opening --OnOpened--> opened --Configure--> connecting --OnConnected--> ready
//    serving:  none --Begin (next is ready)--> serving --Stop, another Begin, or a fault of our own--> none
//
// Neither thread is ever given a second order before the first has returned, so at most two exchanges are open, and a
// result can only be that of the last order: also where another router counts its epochs from the beginning again.
// Steps of one epoch are the exception, of which `steps_at_once` may be out: results come in the order of the orders.
//
// Pure: no clock, no thread, no I/O. Thread-compatible.
class WorkerProtocol {
 public:
  // Orders, to be carried out in this order. Those of set-ups and steps return by exactly one result, with their epoch,
  // also if they are in vain by then.

  // Set-ups.
  struct OpenExchange {  // then OnOpened
    uint64_t epoch = 0;
    int rank = 0, size = 1;
    uint32_t connect_timeout_ms = 0;
  };
  struct ConnectExchange {  // and read in the experts placed here; then OnConnected. The placement has been checked.
    uint64_t epoch = 0;
    v1::Configure configure;
  };
  // At once: wakes whatever waits in this epoch's exchange, now and later, and closes it when nobody uses it any more.
  // The epoch is not spoken of again.
  struct AbandonExchange {
    uint64_t epoch = 0;
    std::string reason;
  };
  // Steps. All that were ordered before have returned when an epoch begins.
  struct BeginEpoch {  // this epoch's exchange is the steps' from now on; roll back, forget the rest; then OnBegun
    v1::Begin begin;
  };
  // Then OnStepRan. If another step is out, this one may be started before that is over; if that one fails, it is void
  // whatever became of it.
  struct RunStep {
    v1::StepPlan plan;
  };
  // All of them: the router is lost, and whoever comes next knows none of them. Returns nothing.
  struct ForgetSequences {};
  // To the stream that is attached.
  struct Answer {
    v1::AttachRequest message;
  };
  using Order =
      std::variant<OpenExchange, ConnectExchange, AbandonExchange, BeginEpoch, RunStep, ForgetSequences, Answer>;

  // Plans that may wait, which are dropped with their epoch. The router sends at most a plan ahead; this many is a
  // router that has lost its mind.
  static constexpr size_t kPlansWaitingMax = 64;

  // What a placement is checked against; how many steps the rim can make use of at a time.
  WorkerProtocol(int moe_layers, int experts, size_t steps_at_once = 1)
      : moe_layers_(moe_layers), experts_(experts), steps_at_once_(steps_at_once) {}

  // A new stream to the router: whatever was is over.
  void OnAttached();
  // The stream is lost: everything is over and forgotten.
  void OnDetached();
  // Of the attached stream. An error means that the router has lost its mind: end the stream.
  absl::Status OnMessage(v1::AttachResponse message);

  // Results. Those of orders that are in vain by now are ignored. `suspects`: the ranks that a failure may be the fault
  // of.
  void OnOpened(uint64_t epoch, const absl::StatusOr<std::string>& address);
  void OnConnected(uint64_t epoch, const absl::Status& status, const std::vector<int>& suspects);
  void OnBegun(uint64_t epoch, const std::vector<uint64_t>& missing);
  void OnStepRan(uint64_t epoch, absl::StatusOr<v1::StepDone> done, const std::vector<int>& suspects);

  std::vector<Order> TakeOrders() { return std::exchange(orders_, {}); }

  // The epoch in which steps can be run; 0: none.
  uint64_t serving_epoch() const { return serving_ ? serving_->epoch : 0; }
  // Whether the step thread has an order that has not returned.
  bool in_step() const { return !step_orders_.empty(); }
  // The last one that was, on any stream; 0: none.
  uint64_t last_served_epoch() const { return last_served_epoch_; }

 private:
  struct Next {
    enum class State { kWaiting, kOpening, kOpened, kConnecting, kReady };
    explicit Next(const OpenExchange& order) : open(order) {}
    OpenExchange open;
    State state = State::kWaiting;  // for the set-up before it to return
  };
  struct Serving {
    explicit Serving(uint64_t number) : epoch(number) {}
    uint64_t epoch;
    uint64_t last_step = 0;  // that a plan has come for
    std::deque<v1::StepPlan> plans;
    std::optional<v1::Begin> begin;  // not ordered yet: a step of the epoch before is still to return
  };
  // What the step thread has been told.
  struct StepOrder {
    explicit StepOrder(uint64_t number) : step(number) {}
    uint64_t step;  // 0: to begin an epoch
    bool in_vain = false;
  };

  void OnPrepare(const v1::Prepare& prepare);
  void OnConfigure(v1::Configure configure);
  void OnBegin(v1::Begin begin);
  std::optional<StepOrder> TakeStepOrder();
  absl::Status OnStepPlan(v1::StepPlan plan);
  void EndServing(const std::string& reason);
  void DropNext(const std::string& reason);
  void AnswerFault(uint64_t epoch, uint64_t step, const absl::Status& status, const std::vector<int>& suspects);
  void FailNext(const absl::Status& status, const std::vector<int>& suspects);
  void FailServing(uint64_t step, const absl::Status& status, const std::vector<int>& suspects);
  // Orders what can be ordered now.
  void Advance();
  v1::AttachRequest& AddAnswer();

  const int moe_layers_, experts_;
  const size_t steps_at_once_;
  bool attached_ = false;
  uint64_t highest_epoch_ = 0;  // prepared on this stream
  uint64_t last_served_epoch_ = 0;
  std::optional<Next> next_;
  std::optional<Serving> serving_;
  bool setting_up_ = false;  // the set-up thread has an order that has not returned
  std::deque<StepOrder> step_orders_;
  bool forget_ = false;  // every sequence, before anything else
  std::vector<Order> orders_;
};

}  // namespace braid
