#include "expert_worker/worker_protocol.h"

#include <gtest/gtest.h>

#include <deque>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "expert_worker/router_messages.h"

namespace braid {
namespace {

using P = WorkerProtocol;

constexpr int kLayers = 2, kExperts = 3;

v1::AttachResponse Configure(uint64_t epoch, int addresses = 2) {
  v1::AttachResponse message;
  v1::Configure* configure = message.mutable_configure();
  configure->set_epoch(epoch);
  for (int rank = 0; rank < addresses; ++rank) configure->add_addresses("address");
  for (int layer = 0; layer < kLayers; ++layer) {
    v1::LayerPlacement* placement = configure->add_placement();
    for (int expert = 0; expert < kExperts; ++expert) placement->add_replicas(1), placement->add_ranks(0);
  }
  return message;
}

std::string Show(const v1::AttachRequest& message) {
  switch (message.message_case()) {
    case v1::AttachRequest::kPrepared:
      return "prepared " + std::to_string(message.prepared().epoch()) + message.prepared().address();
    case v1::AttachRequest::kConfigured:
      return "configured " + std::to_string(message.configured().epoch());
    case v1::AttachRequest::kBegun: {
      std::string shown = "begun " + std::to_string(message.begun().epoch());
      for (const uint64_t sequence : message.begun().missing()) shown += " -" + std::to_string(sequence);
      return shown;
    }
    case v1::AttachRequest::kStepDone:
      return "done " + std::to_string(message.step_done().epoch()) + "." + std::to_string(message.step_done().step());
    case v1::AttachRequest::kFault: {
      std::string shown =
          "fault " + std::to_string(message.fault().epoch()) + "." + std::to_string(message.fault().step());
      for (const uint32_t rank : message.fault().suspect_ranks()) shown += " ?" + std::to_string(rank);
      return shown;
    }
    default:
      return "?";
  }
}

// The protocol, and its orders in a few words: "open 5; connect 5; abandon 5; begin 5; run 5.1; forget; <prepared 5>".
class WorkerProtocolTest : public testing::Test {
 protected:
  explicit WorkerProtocolTest(size_t steps_at_once = 1) : protocol_(kLayers, kExperts, steps_at_once) {
    protocol_.OnAttached();
  }

  std::string Orders() {
    std::string all;
    for (const P::Order& order : protocol_.TakeOrders()) all += (all.empty() ? "" : "; ") + Show(order);
    return all;
  }
  std::string On(v1::AttachResponse message) {
    EXPECT_EQ(protocol_.OnMessage(std::move(message)), absl::OkStatus());
    return Orders();
  }
  std::string Opened(uint64_t epoch) { return protocol_.OnOpened(epoch, std::string("@")), Orders(); }
  std::string Connected(uint64_t epoch) { return protocol_.OnConnected(epoch, absl::OkStatus(), {}), Orders(); }
  std::string Begun(uint64_t epoch, const std::vector<uint64_t>& missing = {}) {
    return protocol_.OnBegun(epoch, missing), Orders();
  }
  std::string Ran(uint64_t epoch) { return protocol_.OnStepRan(epoch, v1::StepDone(), {}), Orders(); }
  std::string Failed(uint64_t epoch, const std::vector<int>& suspects = {}) {
    return protocol_.OnStepRan(epoch, absl::UnavailableError("gone"), suspects), Orders();
  }

  void MakeReady(uint64_t epoch) {
    EXPECT_EQ(On(Prepare(epoch)), "open " + std::to_string(epoch));
    EXPECT_EQ(Opened(epoch), "<prepared " + std::to_string(epoch) + "@>");
    EXPECT_EQ(On(Configure(epoch)), "connect " + std::to_string(epoch));
    EXPECT_EQ(Connected(epoch), "<configured " + std::to_string(epoch) + ">");
  }
  void Serve(uint64_t epoch) {
    MakeReady(epoch);
    On(Begin(epoch));
    EXPECT_EQ(Begun(epoch), "<begun " + std::to_string(epoch) + ">");
    EXPECT_EQ(protocol_.serving_epoch(), epoch);
  }

  static std::string Show(const P::Order& order) {
    if (const auto* open = std::get_if<P::OpenExchange>(&order)) return "open " + std::to_string(open->epoch);
    if (const auto* connect = std::get_if<P::ConnectExchange>(&order)) {
      return "connect " + std::to_string(connect->epoch);
    }
    if (const auto* abandon = std::get_if<P::AbandonExchange>(&order)) {
      return "abandon " + std::to_string(abandon->epoch);
    }
    if (const auto* begin = std::get_if<P::BeginEpoch>(&order)) return "begin " + std::to_string(begin->begin.epoch());
    if (const auto* run = std::get_if<P::RunStep>(&order)) {
      return "run " + std::to_string(run->plan.epoch()) + "." + std::to_string(run->plan.step());
    }
    if (std::holds_alternative<P::ForgetSequences>(order)) return "forget";
    return "<" + braid::Show(std::get<P::Answer>(order).message) + ">";
  }

  P protocol_;
};

TEST_F(WorkerProtocolTest, ServesOneEpochAfterTheOther) {
  Serve(5);
  EXPECT_EQ(On(Plan(5, 1)), "run 5.1");
  MakeReady(6);  // beside the running step
  EXPECT_EQ(Ran(5), "<done 5.1>");
  EXPECT_EQ(protocol_.serving_epoch(), 5u);
  EXPECT_EQ(On(Begin(6)), "abandon 5; begin 6");
  EXPECT_EQ(Begun(6, {3, 4}), "<begun 6 -3 -4>");
  EXPECT_EQ(On(Plan(6, 1)), "run 6.1");
}

TEST_F(WorkerProtocolTest, PassesOnWhatAnOpenNeeds) {
  ASSERT_TRUE(protocol_.OnMessage(Prepare(3, 1, 2)).ok());
  const auto orders = protocol_.TakeOrders();
  ASSERT_EQ(orders.size(), 1u);
  const auto& open = std::get<P::OpenExchange>(orders[0]);
  EXPECT_EQ(open.rank, 1);
  EXPECT_EQ(open.size, 2);
  EXPECT_EQ(open.connect_timeout_ms, 2000u);
}

TEST_F(WorkerProtocolTest, RunsPlansOneAtATimeAndInOrder) {
  Serve(1);
  EXPECT_EQ(On(Plan(1, 1)), "run 1.1");
  EXPECT_EQ(On(Plan(1, 2)), "");
  EXPECT_EQ(On(Plan(1, 3)), "");
  EXPECT_EQ(Ran(1), "<done 1.1>; run 1.2");
  EXPECT_EQ(Ran(1), "<done 1.2>; run 1.3");
  EXPECT_EQ(Ran(1), "<done 1.3>");
}

// A rim that has a use for two steps at a time.
class TwoStepsAtOnce : public WorkerProtocolTest {
 protected:
  TwoStepsAtOnce() : WorkerProtocolTest(2) {}
};

TEST_F(TwoStepsAtOnce, AreOrderedAndAnsweredInOrder) {
  MakeReady(1);
  EXPECT_EQ(On(Begin(1)), "begin 1");
  EXPECT_EQ(On(Plan(1, 1)), "");
  EXPECT_EQ(On(Plan(1, 2)), "");
  EXPECT_EQ(On(Plan(1, 3)), "");
  EXPECT_EQ(Begun(1), "<begun 1>; run 1.1; run 1.2");
  EXPECT_EQ(Ran(1), "<done 1.1>; run 1.3");
  EXPECT_EQ(Ran(1), "<done 1.2>");
  EXPECT_EQ(Ran(1), "<done 1.3>");
  EXPECT_FALSE(protocol_.in_step());
}

TEST_F(TwoStepsAtOnce, AreBothVoidIfTheFirstFails) {
  Serve(1);
  MakeReady(2);
  EXPECT_EQ(On(Plan(1, 1)), "run 1.1");
  EXPECT_EQ(On(Plan(1, 2)), "run 1.2");
  EXPECT_EQ(Failed(1, {1}), "<fault 1.1 ?1>; abandon 1");
  EXPECT_EQ(On(Begin(2)), "") << "the second is still out";
  EXPECT_EQ(On(Plan(2, 1)), "");
  EXPECT_EQ(Failed(1), "begin 2") << "of which nobody hears";
  EXPECT_EQ(On(Plan(2, 2)), "") << "it has not begun";
  EXPECT_EQ(Begun(2), "<begun 2>; run 2.1; run 2.2");
}

TEST_F(TwoStepsAtOnce, AreBothVoidIfTheEpochIsStoppedAndTheFirstIsAnsweredIfTheSecondFails) {
  Serve(1);
  On(Plan(1, 1));
  On(Plan(1, 2));
  EXPECT_EQ(On(Stop(1)), "abandon 1");
  EXPECT_EQ(Ran(1), "");
  EXPECT_EQ(Ran(1), "") << "also if they succeeded";
  Serve(2);
  On(Plan(2, 1));
  On(Plan(2, 2));
  EXPECT_EQ(Ran(2), "<done 2.1>");
  EXPECT_EQ(Failed(2), "<fault 2.2>; abandon 2");
}

TEST_F(TwoStepsAtOnce, AreForgottenWithTheirStream) {
  Serve(1);
  On(Plan(1, 1));
  On(Plan(1, 2));
  protocol_.OnDetached();
  EXPECT_EQ(Orders(), "abandon 1");
  EXPECT_EQ(Ran(1), "");
  EXPECT_EQ(Ran(1), "forget");
}

TEST_F(WorkerProtocolTest, PlansMayComeBeforeTheEpochHasBegunHere) {
  MakeReady(1);
  EXPECT_EQ(On(Begin(1)), "begin 1");
  EXPECT_EQ(On(Plan(1, 1)), "");
  EXPECT_EQ(Begun(1), "<begun 1>; run 1.1");
}

TEST_F(WorkerProtocolTest, TooManyPlansEndTheStream) {
  Serve(1);
  EXPECT_EQ(On(Plan(1, 1)), "run 1.1");
  for (uint64_t step = 2; step <= 1 + P::kPlansWaitingMax; ++step) EXPECT_EQ(On(Plan(1, step)), "");
  EXPECT_EQ(protocol_.OnMessage(Plan(1, 2 + P::kPlansWaitingMax)).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(WorkerProtocolTest, AStepOutOfTurnIsAFault) {
  Serve(1);
  EXPECT_EQ(On(Plan(1, 2)), "<fault 1.2>; abandon 1");
  EXPECT_EQ(protocol_.serving_epoch(), 0u);
  Serve(2);
  EXPECT_EQ(On(Plan(2, 1)), "run 2.1");
  EXPECT_EQ(On(Plan(2, 1)), "<fault 2.1>; abandon 2");
  EXPECT_EQ(Ran(2), "") << "it is void";
}

TEST_F(WorkerProtocolTest, IgnoresEpochsThatAreNoHigherThanThoseSeen) {
  EXPECT_EQ(On(Prepare(5)), "open 5");
  EXPECT_EQ(On(Prepare(5)), "");
  EXPECT_EQ(On(Prepare(4)), "");
  EXPECT_EQ(On(Prepare(0)), "");
  EXPECT_EQ(Opened(5), "<prepared 5@>");
}

TEST_F(WorkerProtocolTest, IgnoresWhatBelongsToNoEpochOfIts) {
  Serve(5);
  EXPECT_EQ(On(Prepare(6)), "open 6");
  for (const uint64_t epoch : {4, 7}) {
    EXPECT_EQ(On(Configure(epoch)), "");
    EXPECT_EQ(On(Begin(epoch)), "");
    EXPECT_EQ(On(Plan(epoch, 1)), "");
    EXPECT_EQ(On(Stop(epoch)), "");
  }
  EXPECT_EQ(On(Configure(5)), "") << "it serves";
  EXPECT_EQ(On(Begin(5)), "");
  EXPECT_EQ(On(Plan(6, 1)), "") << "it does not serve yet";
  EXPECT_EQ(On(Stop(6)), "") << "only what serves is stopped";
  EXPECT_EQ(Opened(6), "<prepared 6@>");
}

TEST_F(WorkerProtocolTest, ANewerNextEpochTakesThePlaceOfTheOlder) {
  Serve(1);
  EXPECT_EQ(On(Prepare(2)), "open 2");
  EXPECT_EQ(Opened(2), "<prepared 2@>");
  EXPECT_EQ(On(Prepare(3)), "abandon 2; open 3");
  EXPECT_EQ(Opened(3), "<prepared 3@>");
  EXPECT_EQ(On(Configure(3)), "connect 3");
  EXPECT_EQ(On(Prepare(4)), "abandon 3") << "its set-up returns first";
  EXPECT_EQ(On(Prepare(5)), "") << "nothing of 4 is there to be abandoned";
  EXPECT_EQ(Connected(3), "open 5");
  EXPECT_EQ(Opened(5), "<prepared 5@>");
  EXPECT_EQ(On(Plan(1, 1)), "run 1.1") << "all that disturbs nothing";
}

TEST_F(WorkerProtocolTest, ASetUpThatFailsIsAFaultOfThatEpochAlone) {
  Serve(1);
  EXPECT_EQ(On(Prepare(2)), "open 2");
  protocol_.OnOpened(2, absl::UnavailableError("no sockets"));
  EXPECT_EQ(Orders(), "<fault 2.0>; abandon 2");
  EXPECT_EQ(On(Prepare(3)), "open 3");
  EXPECT_EQ(Opened(3), "<prepared 3@>");
  EXPECT_EQ(On(Configure(3)), "connect 3");
  protocol_.OnConnected(3, absl::DeadlineExceededError("cut"), {1});
  EXPECT_EQ(Orders(), "<fault 3.0 ?1>; abandon 3");
  EXPECT_EQ(On(Plan(1, 1)), "run 1.1");
}

TEST_F(WorkerProtocolTest, BeginAndConfigureBeforeTheirTimeAreFaults) {
  EXPECT_EQ(On(Prepare(1)), "open 1");
  EXPECT_EQ(On(Configure(1)), "<fault 1.0>; abandon 1");
  EXPECT_EQ(Opened(1), "");
  EXPECT_EQ(On(Prepare(2)), "open 2");
  EXPECT_EQ(Opened(2), "<prepared 2@>");
  EXPECT_EQ(On(Begin(2)), "<fault 2.0>; abandon 2");
  EXPECT_EQ(On(Prepare(3)), "open 3");
  EXPECT_EQ(Opened(3), "<prepared 3@>");
  EXPECT_EQ(On(Configure(3)), "connect 3");
  EXPECT_EQ(On(Configure(3)), "") << "a second one changes nothing";
  EXPECT_EQ(On(Begin(3)), "<fault 3.0>; abandon 3");
  EXPECT_EQ(Connected(3), "");
}

TEST_F(WorkerProtocolTest, RefusesRanksThatMakeNoSense) {
  EXPECT_EQ(On(Prepare(1, 2, 2)), "<fault 1.0>");
  EXPECT_EQ(On(Prepare(2, 0, 0)), "<fault 2.0>");
  EXPECT_EQ(On(Prepare(3, 0, 4000000000u)), "<fault 3.0>");
  EXPECT_EQ(On(Prepare(3)), "") << "seen";
}

TEST_F(WorkerProtocolTest, RefusesPlacementsAndAddressesThatMakeNoSense) {
  uint64_t epoch = 0;
  const auto refused = [&](auto change) {
    On(Prepare(++epoch));
    Opened(epoch);
    v1::AttachResponse message = Configure(epoch);
    change(*message.mutable_configure());
    return On(message) == "<fault " + std::to_string(epoch) + ".0>; abandon " + std::to_string(epoch);
  };
  EXPECT_FALSE(refused([](auto& configure) {}));
  Connected(epoch);
  EXPECT_TRUE(refused([](auto& configure) { configure.add_addresses("one more"); }));
  EXPECT_TRUE(refused([](auto& configure) { configure.clear_addresses(); }));
  EXPECT_TRUE(refused([](auto& configure) { configure.mutable_placement()->RemoveLast(); }));
  EXPECT_TRUE(refused([](auto& configure) { configure.mutable_placement(1)->set_ranks(2, 2); }));
  EXPECT_TRUE(refused([](auto& configure) { configure.mutable_placement(1)->set_replicas(0, 0); }));
}

TEST_F(WorkerProtocolTest, StopVoidsTheRunningStepAndWhatWaits) {
  Serve(1);
  On(Plan(1, 1));
  On(Plan(1, 2));
  EXPECT_EQ(On(Stop(1)), "abandon 1");
  EXPECT_EQ(protocol_.serving_epoch(), 0u);
  EXPECT_EQ(On(Stop(1)), "");
  EXPECT_EQ(On(Plan(1, 3)), "");
  EXPECT_EQ(Ran(1), "") << "also if it succeeded";
  MakeReady(2);
  EXPECT_EQ(On(Begin(2)), "begin 2");
}

TEST_F(WorkerProtocolTest, AFaultOfAStepEndsTheEpochHere) {
  Serve(1);
  On(Plan(1, 1));
  On(Plan(1, 2));
  EXPECT_EQ(Failed(1, {1}), "<fault 1.1 ?1>; abandon 1");
  EXPECT_EQ(On(Plan(1, 3)), "");
  EXPECT_EQ(On(Stop(1)), "");
  EXPECT_EQ(protocol_.serving_epoch(), 0u);
  EXPECT_EQ(protocol_.last_served_epoch(), 1u);
}

TEST_F(WorkerProtocolTest, BeginWaitsForTheStepThatItVoids) {
  Serve(1);
  MakeReady(2);
  On(Plan(1, 1));
  On(Plan(1, 2));
  EXPECT_EQ(On(Begin(2)), "abandon 1");
  EXPECT_EQ(On(Plan(2, 1)), "");
  EXPECT_EQ(Failed(1), "begin 2") << "no fault: it was told to end";
  EXPECT_EQ(Begun(2), "<begun 2>; run 2.1");
}

TEST_F(WorkerProtocolTest, NoThirdExchangeIsOpened) {
  Serve(1);
  MakeReady(2);
  On(Plan(1, 1));
  EXPECT_EQ(On(Begin(2)), "abandon 1");
  EXPECT_EQ(On(Prepare(3)), "") << "the step of 1 still holds an exchange";
  EXPECT_EQ(Ran(1), "begin 2; open 3");
}

TEST_F(WorkerProtocolTest, StopOfAnEpochThatIsAboutToBegin) {
  Serve(1);
  MakeReady(2);
  On(Plan(1, 1));
  EXPECT_EQ(On(Begin(2)), "abandon 1");
  EXPECT_EQ(On(Stop(2)), "abandon 2");
  EXPECT_EQ(Ran(1), "");
  MakeReady(3);
  EXPECT_EQ(On(Begin(3)), "begin 3");
  EXPECT_EQ(On(Stop(3)), "abandon 3");
  EXPECT_EQ(Begun(3), "");
}

TEST_F(WorkerProtocolTest, ALostStreamEndsEverythingAndForgets) {
  Serve(8);
  MakeReady(9);
  On(Plan(8, 1));
  protocol_.OnDetached();
  EXPECT_EQ(Orders(), "abandon 9; abandon 8") << "the step still uses the sequences";
  EXPECT_EQ(On(Prepare(10)), "") << "nobody said so";
  EXPECT_EQ(Ran(8), "forget");
  EXPECT_EQ(protocol_.last_served_epoch(), 8u);
  protocol_.OnDetached();
  EXPECT_EQ(Orders(), "");
}

TEST_F(WorkerProtocolTest, AnotherRouterMayUseTheSameNumbersWhileOldOrdersAreStillToReturn) {
  Serve(1);
  On(Plan(1, 1));
  EXPECT_EQ(On(Prepare(2)), "open 2");
  protocol_.OnDetached();
  EXPECT_EQ(Orders(), "abandon 2; abandon 1");
  protocol_.OnAttached();
  EXPECT_EQ(On(Prepare(1)), "");
  EXPECT_EQ(Opened(2), "open 1");
  EXPECT_EQ(Opened(1), "<prepared 1@>");
  EXPECT_EQ(On(Configure(1)), "connect 1");
  EXPECT_EQ(Connected(1), "<configured 1>");
  EXPECT_EQ(On(Begin(1)), "");
  EXPECT_EQ(On(Plan(1, 1)), "");
  EXPECT_EQ(Ran(1), "forget; begin 1") << "the other router's step is no answer to this one's";
  EXPECT_EQ(Begun(1), "<begun 1>; run 1.1");
}

// A rim that returns orders when it likes, and a router that is sane most of the time.
class Chaos {
 public:
  Chaos(int seed, size_t steps_at_once)
      : rng_(static_cast<unsigned>(seed)), steps_at_once_(steps_at_once), protocol_(kLayers, kExperts, steps_at_once) {}

  // One event, and the orders that follow.
  void Go() {
    switch (rng_() % 5) {
      case 0:
      case 1:
        RouterSpeaks();
        break;
      case 2:
      case 3:
        SomethingReturns();
        break;
      case 4:
        if (rng_() % 20 == 0) ToggleStream();
        break;
    }
    for (P::Order& order : protocol_.TakeOrders()) CarryOut(std::move(order));
  }
  int steps_ran() const { return steps_ran_; }

 private:
  bool Rarely() { return rng_() % 12 == 0; }

  void ToggleStream() {
    attached_ = !attached_;
    attached_ ? protocol_.OnAttached() : protocol_.OnDetached();
    epoch_ = 0;
    said_ = v1::AttachRequest::kHello;
  }

  void RouterSpeaks() {
    const uint64_t serving = protocol_.serving_epoch();
    v1::AttachResponse message;
    if (Rarely()) {
      message = Stop(serving);
    } else if (Rarely() || epoch_ == 0) {
      message = Prepare(++epoch_);
      said_ = v1::AttachRequest::kHello;
    } else if (said_ == v1::AttachRequest::kPrepared || Rarely()) {
      message = Configure(epoch_);
      said_ = v1::AttachRequest::kHello;
    } else if (said_ == v1::AttachRequest::kConfigured || Rarely()) {
      message = Begin(epoch_);
      said_ = v1::AttachRequest::kHello;
      step_ = 0;
    } else if (serving != 0) {
      message = Plan(serving, Rarely() ? step_ : ++step_);
    }
    ASSERT_TRUE(protocol_.OnMessage(std::move(message)).ok());
  }

  void SomethingReturns() {
    const absl::Status status = Rarely() ? absl::UnavailableError("gone") : absl::OkStatus();
    if (setting_up_ && rng_() % 2 == 0) {
      held_by_set_up_ = false;
      const P::Order order = *std::exchange(setting_up_, std::nullopt);
      if (const auto* open = std::get_if<P::OpenExchange>(&order)) return protocol_.OnOpened(open->epoch, "@");
      return protocol_.OnConnected(std::get<P::ConnectExchange>(order).epoch, status, {});
    }
    if (stepping_.empty()) return;
    const P::Order order = std::move(stepping_.front());
    stepping_.pop_front();
    held_by_steps_ = held_by_steps_ && !stepping_.empty();
    if (const auto* begin = std::get_if<P::BeginEpoch>(&order)) return protocol_.OnBegun(begin->begin.epoch(), {});
    absl::StatusOr<v1::StepDone> done = v1::StepDone();
    if (!status.ok()) done = status;
    ++steps_ran_;
    protocol_.OnStepRan(std::get<P::RunStep>(order).plan.epoch(), std::move(done), {});
  }

  static uint64_t EpochOf(const P::Order& order) {
    if (const auto* open = std::get_if<P::OpenExchange>(&order)) return open->epoch;
    if (const auto* connect = std::get_if<P::ConnectExchange>(&order)) return connect->epoch;
    if (const auto* begin = std::get_if<P::BeginEpoch>(&order)) return begin->begin.epoch();
    return std::get<P::RunStep>(order).plan.epoch();
  }

  void CarryOut(P::Order order) {
    if (std::holds_alternative<P::OpenExchange>(order) || std::holds_alternative<P::ConnectExchange>(order)) {
      ASSERT_FALSE(setting_up_);
      const bool opens = std::holds_alternative<P::OpenExchange>(order);
      ASSERT_NE(open_.contains(EpochOf(order)), opens);
      open_.insert(EpochOf(order));
      setting_up_ = std::move(order);
    } else if (std::holds_alternative<P::BeginEpoch>(order) || std::holds_alternative<P::RunStep>(order)) {
      const bool runs = std::holds_alternative<P::RunStep>(order);
      ASSERT_LT(stepping_.size(), runs ? steps_at_once_ : 1);
      ASSERT_TRUE(open_.contains(EpochOf(order)));
      if (!stepping_.empty()) {
        ASSERT_TRUE(std::holds_alternative<P::RunStep>(stepping_.back()));
        ASSERT_EQ(EpochOf(stepping_.back()), EpochOf(order));
        ASSERT_FALSE(held_by_steps_) << "behind a step that is void";
      }
      stepping_.push_back(std::move(order));
    } else if (const auto* abandon = std::get_if<P::AbandonExchange>(&order)) {
      ASSERT_EQ(open_.erase(abandon->epoch), 1u);
      if (setting_up_ && !held_by_set_up_) held_by_set_up_ = EpochOf(*setting_up_) == abandon->epoch;
      if (!stepping_.empty() && !held_by_steps_) held_by_steps_ = EpochOf(stepping_.front()) == abandon->epoch;
    } else if (const auto* answer = std::get_if<P::Answer>(&order)) {
      ASSERT_TRUE(attached_);
      if (answer->message.has_prepared() || answer->message.has_configured()) said_ = answer->message.message_case();
      const v1::StepDone& done = answer->message.step_done();
      ASSERT_TRUE(!answer->message.has_step_done() || done.epoch() == protocol_.serving_epoch());
    } else {
      ASSERT_TRUE(std::holds_alternative<P::ForgetSequences>(order));
      ASSERT_TRUE(stepping_.empty());
    }
    ASSERT_LE(open_.size() + held_by_set_up_ + held_by_steps_, 2u);
  }

  std::mt19937 rng_;
  const size_t steps_at_once_;
  P protocol_;
  bool attached_ = false;
  uint64_t epoch_ = 0, step_ = 0;                                    // of the router
  v1::AttachRequest::MessageCase said_ = v1::AttachRequest::kHello;  // what the router heard of its next epoch
  std::optional<P::Order> setting_up_;                               // what the threads have been told
  std::deque<P::Order> stepping_;
  std::set<uint64_t> open_;                              // exchanges, but for those abandoned
  bool held_by_set_up_ = false, held_by_steps_ = false;  // an abandoned one is still in use
  int steps_ran_ = 0;
};

TEST(WorkerProtocol, NeverHasMoreOrdersPerThreadThanItMayOrMoreThanTwoExchanges) {
  int steps_ran = 0;
  for (int seed = 0; seed < 1000; ++seed) {
    Chaos chaos(seed, /*steps_at_once=*/1 + seed % 2);
    for (int event = 0; event < 1000; ++event) {
      chaos.Go();
      if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << ", event " << event;
    }
    steps_ran += chaos.steps_ran();
  }
  EXPECT_GT(steps_ran, 3000) << "else all this tried little";
}

}  // namespace
}  // namespace braid
