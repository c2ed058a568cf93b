#include "router/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr Epoch kBefore(1000);

v1::Hello NewHello(const std::string& name = "worker") {
  v1::Hello hello;
  hello.set_name(name);
  hello.set_model_digest("digest");
  hello.set_kv_blocks(100);
  hello.set_kv_block_tokens(32);
  hello.set_sequences_max(10);
  hello.set_step_tokens_max(64);
  hello.set_exchange("inprocess");
  hello.set_expert_count(8);
  hello.set_context_tokens_max(1000);
  hello.set_vocab_size(500);
  return hello;
}

class MembershipTest : public ::testing::Test {
 protected:
  explicit MembershipTest(int workers = 2) : options_{.workers = workers}, membership_(options_, kBefore, &actions_) {}

  void Attach(uint32_t id) {
    ASSERT_TRUE(membership_.OnOpened(WorkerId(id), now_).ok());
    ASSERT_TRUE(membership_.OnHello(WorkerId(id), NewHello(), now_).ok());
  }
  absl::Status Prepared(uint32_t id) {
    v1::Prepared prepared;
    prepared.set_epoch(membership_.epoch().value);
    prepared.set_address(absl::StrCat("address ", id));
    return membership_.OnPrepared(WorkerId(id), prepared);
  }
  absl::Status Configured(uint32_t id) {
    v1::Configured configured;
    configured.set_epoch(membership_.epoch().value);
    return membership_.OnConfigured(WorkerId(id), configured);
  }
  void SetUpEpoch(std::vector<uint32_t> ids) {
    for (uint32_t id : ids) ASSERT_TRUE(Prepared(id).ok());
    for (uint32_t id : ids) ASSERT_TRUE(Configured(id).ok());
    actions_.clear();
  }
  void Serve() {
    Attach(1);
    Attach(2);
    membership_.Advance(now_);
    SetUpEpoch({1, 2});
    ASSERT_THAT(membership_.serving(), SizeIs(2));
  }
  void Pass(absl::Duration time, std::vector<uint32_t> alive) {
    for (absl::Time end = now_ + time; now_ < end;) {
      now_ += absl::Milliseconds(100);
      for (uint32_t id : alive) {
        if (membership_.attached(WorkerId(id))) membership_.OnHeard(WorkerId(id), now_);
      }
      membership_.Advance(now_);
    }
  }
  // What was sent since the last clear, by kind, as "<worker> <kind>".
  std::vector<std::string> Said() {
    static constexpr const char* kNames[] = {"nothing", "welcome", "prepare", "configure", "plan", "heartbeat"};
    std::vector<std::string> said;
    for (const Action& action : actions_) {
      if (const auto* send = std::get_if<SendToWorker>(&action)) {
        if (!send->message.has_heartbeat()) {
          said.push_back(absl::StrCat(send->worker.value, " ", kNames[send->message.message_case()]));
        }
      } else if (const auto* close = std::get_if<CloseWorker>(&action)) {
        said.push_back(absl::StrCat(close->worker.value, " closed ", static_cast<int>(close->status.code())));
      }
    }
    actions_.clear();
    return said;
  }

  RouterOptions options_;
  std::vector<Action> actions_;
  Membership membership_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(MembershipTest, SetsUpAnEpochOnceEnoughWorkersAreAttached) {
  Attach(1);
  membership_.Advance(now_);
  EXPECT_EQ(membership_.NotReady(), "waiting for 1 of 2 workers");
  EXPECT_THAT(Said(), ElementsAre("1 welcome"));
  Attach(2);
  membership_.Advance(now_);
  EXPECT_THAT(Said(), ElementsAre("2 welcome", "1 prepare", "2 prepare"));
  EXPECT_GT(membership_.epoch(), kBefore);

  EXPECT_TRUE(Prepared(2).ok());
  EXPECT_THAT(Said(), IsEmpty());
  EXPECT_TRUE(Prepared(1).ok());
  const auto& configure = std::get<SendToWorker>(actions_[0]).message.configure();
  EXPECT_THAT(configure.addresses(), ElementsAre("address 1", "address 2"));
  EXPECT_THAT(configure.expert_rank(), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(Said(), ElementsAre("1 configure", "2 configure"));

  EXPECT_TRUE(Configured(1).ok());
  EXPECT_THAT(membership_.serving(), IsEmpty());
  EXPECT_TRUE(Configured(2).ok());
  ASSERT_THAT(membership_.serving(), SizeIs(2));
  EXPECT_EQ(membership_.NotReady(), "");
}

TEST_F(MembershipTest, RefusesAWorkerThatDiffersAndSaysInWhat) {
  Attach(1);
  ASSERT_TRUE(membership_.OnOpened(WorkerId(2), now_).ok());
  v1::Hello odd = NewHello();
  odd.set_model_digest("another");
  absl::Status status = membership_.OnHello(WorkerId(2), odd, now_);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StdView(status.message())), HasSubstr("model_digest"));
  odd = NewHello();
  odd.set_expert_count(9);
  EXPECT_THAT(std::string(StdView(membership_.OnHello(WorkerId(2), odd, now_).message())), HasSubstr("expert_count"));
}

TEST_F(MembershipTest, RefusesAHelloThatMakesNoSense) {
  ASSERT_TRUE(membership_.OnOpened(WorkerId(1), now_).ok());
  v1::Hello hello = NewHello();
  hello.set_kv_blocks(~uint64_t{0});
  EXPECT_EQ(membership_.OnHello(WorkerId(1), hello, now_).code(), absl::StatusCode::kInvalidArgument);
  hello = NewHello();
  hello.set_kv_block_tokens(0);
  EXPECT_EQ(membership_.OnHello(WorkerId(1), hello, now_).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(membership_.OnHello(WorkerId(1), NewHello(), now_).ok());
  EXPECT_FALSE(membership_.OnHello(WorkerId(1), NewHello(), now_).ok()) << "hello comes once";
}

TEST_F(MembershipTest, ALostMemberEndsTheEpochAndAnotherTakesItsPlace) {
  Serve();
  const Epoch first = membership_.epoch();
  membership_.OnLost(WorkerId(1));
  EXPECT_THAT(membership_.serving(), IsEmpty());
  membership_.Advance(now_);
  EXPECT_EQ(membership_.NotReady(), "waiting for 1 of 2 workers");
  Attach(3);
  membership_.Advance(now_);
  EXPECT_GT(membership_.epoch(), first);
  SetUpEpoch({2, 3});
  EXPECT_EQ(membership_.RankOf(WorkerId(2)), 0);
  EXPECT_EQ(membership_.RankOf(WorkerId(3)), 1);
}

TEST_F(MembershipTest, AStandbyTakesOverAtOnce) {
  Serve();
  Attach(3);
  membership_.Advance(now_);
  EXPECT_THAT(membership_.serving(), SizeIs(2));
  actions_.clear();
  membership_.OnLost(WorkerId(2));
  membership_.Advance(now_);
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "3 prepare"));
}

TEST_F(MembershipTest, TheLossOfAStandbyChangesNothing) {
  Serve();
  Attach(3);
  membership_.OnLost(WorkerId(3));
  EXPECT_THAT(membership_.serving(), SizeIs(2));
}

TEST_F(MembershipTest, GivesUpASilentWorker) {
  Serve();
  Pass(options_.heartbeat_timeout, {1});
  EXPECT_THAT(membership_.serving(), SizeIs(2));
  Pass(absl::Milliseconds(200), {1});
  EXPECT_THAT(Said(), ElementsAre("2 closed 4"));
  EXPECT_THAT(membership_.serving(), IsEmpty());
}

TEST_F(MembershipTest, GivesUpAStreamThatNeverSaysHello) {
  ASSERT_TRUE(membership_.OnOpened(WorkerId(1), now_).ok());
  Pass(options_.heartbeat_timeout + absl::Milliseconds(200), {});
  EXPECT_THAT(Said(), ElementsAre("1 closed 4"));
}

TEST_F(MembershipTest, ARouterThatSleptAccusesNobody) {
  Serve();
  now_ += absl::Minutes(5);
  membership_.Advance(now_);
  EXPECT_THAT(membership_.serving(), SizeIs(2));
  Pass(options_.heartbeat_timeout + absl::Milliseconds(200), {1, 2});
  EXPECT_THAT(membership_.serving(), SizeIs(2));
}

TEST_F(MembershipTest, SendsHeartbeatsToEveryWorker) {
  Serve();
  Pass(options_.heartbeat * 4, {1, 2});
  EXPECT_THAT(actions_, SizeIs(8));
}

TEST_F(MembershipTest, GivesUpWhoDoesNotAnswerTheSetUp) {
  Attach(1);
  Attach(2);
  membership_.Advance(now_);
  EXPECT_TRUE(Prepared(1).ok());
  actions_.clear();
  Pass(Membership::kSetupTimeout, {1, 2});
  EXPECT_THAT(Said(), ElementsAre("2 closed 4"));
  EXPECT_EQ(membership_.NotReady(), "waiting for 1 of 2 workers");
}

TEST_F(MembershipTest, AFaultStartsAnotherEpochWithTheSameMembersAfterAGrowingDelay) {
  Serve();
  v1::Fault fault;
  fault.set_epoch(membership_.epoch().value);
  membership_.OnFault(WorkerId(1), fault, now_);
  membership_.OnFault(WorkerId(2), fault, now_);  // of the same trouble; the epoch is already over
  EXPECT_THAT(membership_.serving(), IsEmpty());
  membership_.Advance(now_);
  EXPECT_THAT(Said(), IsEmpty());
  Pass(Membership::kRetryMin, {1, 2});
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare"));

  SetUpEpoch({1, 2});
  fault.set_epoch(membership_.epoch().value);
  membership_.OnFault(WorkerId(1), fault, now_);
  Pass(Membership::kRetryMin, {1, 2});
  EXPECT_THAT(Said(), IsEmpty());
  Pass(Membership::kRetryMin, {1, 2});
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare"));
}

TEST_F(MembershipTest, IgnoresWhatBelongsToAnotherEpoch) {
  Serve();
  v1::Fault fault;
  fault.set_epoch(membership_.epoch().value - 1);
  membership_.OnFault(WorkerId(1), fault, now_);
  v1::Prepared prepared;
  prepared.set_epoch(membership_.epoch().value + 1);
  EXPECT_TRUE(membership_.OnPrepared(WorkerId(1), prepared).ok());
  EXPECT_THAT(membership_.serving(), SizeIs(2));
}

TEST_F(MembershipTest, AnAnswerThatWasNotAskedForBreaksTheProtocol) {
  Serve();
  EXPECT_FALSE(Prepared(1).ok());
  EXPECT_FALSE(Configured(1).ok());
}

TEST_F(MembershipTest, ALeavingWorkerGoesAtTheBoundaryAndIsNotAskedAgain) {
  Serve();
  membership_.OnLeaving(WorkerId(1));
  EXPECT_THAT(membership_.serving(), SizeIs(2));
  membership_.ReleaseLeaving();
  EXPECT_THAT(Said(), ElementsAre("1 closed 0"));
  EXPECT_THAT(membership_.serving(), IsEmpty());
}

}  // namespace
}  // namespace braid
