#include "router/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "router/fake_worker.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MembershipTest : public ::testing::Test {
 protected:
  explicit MembershipTest(RouterOptions options = {.workers = 2}) : options_(options) {}
  void Join(uint32_t id, uint64_t served_in = 0) {
    v1::Hello hello = FakeWorker(absl::StrCat("worker-", id)).hello();
    hello.set_epoch(served_in);
    membership_.OnJoined(WorkerId(id), hello, now_);
  }
  void Prepared(uint32_t id, uint64_t epoch = 0) {
    v1::Prepared prepared;
    prepared.set_epoch(epoch > 0 ? epoch : epoch_.value);
    prepared.set_address(absl::StrCat("address ", id));
    EXPECT_TRUE(membership_.OnPrepared(WorkerId(id), prepared).ok());
  }
  void Configured(uint32_t id) {
    v1::Configured configured;
    configured.set_epoch(epoch_.value);
    EXPECT_TRUE(membership_.OnConfigured(WorkerId(id), configured).ok());
  }
  void Begun(uint32_t id) {
    v1::Begun begun;
    begun.set_epoch(epoch_.value);
    EXPECT_TRUE(membership_.OnBegun(WorkerId(id), begun).ok());
  }
  void Fault(uint32_t id, uint64_t epoch, std::vector<uint32_t> suspect_ranks) {
    v1::Fault fault;
    fault.set_epoch(epoch);
    fault.set_message("something broke");
    fault.mutable_suspect_ranks()->Add(suspect_ranks.begin(), suspect_ranks.end());
    membership_.OnFault(WorkerId(id), fault, now_);
  }
  void Advance(absl::Duration time = absl::ZeroDuration()) {
    now_ += time;
    membership_.Advance(now_, {});
  }
  // Worker 3 has come to 1 and 2, which serve: it stands by.
  void ExpectItTakesALostOnesPlace() {
    Advance();
    EXPECT_THAT(Said(), IsEmpty());
    membership_.OnLost(WorkerId(1), true, now_);
    Said();
    Advance();
    EXPECT_THAT(Said(), ElementsAre("2 prepare", "3 prepare"));
  }
  // Takes the next epoch, which has begun to be set up, until it serves.
  void Serve(std::vector<uint32_t> ids) {
    for (uint32_t id : ids) Prepared(id);
    Advance();
    for (uint32_t id : ids) Configured(id);
    ASSERT_NE(membership_.ready(), nullptr);
    membership_.Begin(std::vector<v1::Begin>(ids.size()), now_);
    for (uint32_t id : ids) Begun(id);
    ASSERT_TRUE(membership_.running());
    ASSERT_EQ(Members(), ids);
    actions_.clear();
  }
  void ServeWith(std::vector<uint32_t> ids) {
    for (uint32_t id : ids) Join(id);
    Advance();
    Serve(ids);
  }
  std::vector<uint32_t> Members() {
    std::vector<uint32_t> ids;
    if (membership_.serving() == nullptr) return ids;
    for (WorkerId id : membership_.serving()->ids()) ids.push_back(id.value);
    return ids;
  }
  // What was sent since the last call, as "<worker> <kind>".
  std::vector<std::string> Said() {
    static constexpr const char* kNames[] = {"nothing", "welcome",   "prepare", "configure",
                                             "plan",    "heartbeat", "begin",   "stop"};
    std::vector<std::string> said;
    for (const Action& action : std::exchange(actions_, {})) {
      const auto& send = std::get<SendToWorker>(action);
      said.push_back(absl::StrCat(send.worker.value, " ", kNames[send.message.message_case()]));
    }
    return said;
  }

  const RouterOptions options_;
  Epoch epoch_{1000};
  std::vector<Action> actions_;
  Membership membership_{"g", options_, &epoch_, &actions_};
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(MembershipTest, SetsUpAnEpochOnceEnoughWorkersAreThere) {
  Join(1);
  Advance();
  EXPECT_EQ(membership_.NotReady(), "waiting for 1 of 2 workers");
  EXPECT_THAT(Said(), IsEmpty());
  Join(2);
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare"));
  EXPECT_GT(epoch_, Epoch(1000));
  Prepared(2);
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
  Prepared(1);
  Advance();
  const auto& configure = std::get<SendToWorker>(actions_.at(0)).message.configure();
  EXPECT_THAT(configure.addresses(), ElementsAre("address 1", "address 2"));
  EXPECT_THAT(configure.placement(0).ranks(), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(Said(), ElementsAre("1 configure", "2 configure"));
  Configured(1);
  EXPECT_EQ(membership_.ready(), nullptr);
  Configured(2);
  ASSERT_NE(membership_.ready(), nullptr);
  membership_.Begin({{}, {}}, now_);
  EXPECT_THAT(Said(), ElementsAre("1 begin", "2 begin"));
  Begun(1);
  EXPECT_FALSE(membership_.running());
  Begun(2);
  EXPECT_TRUE(membership_.running());
  EXPECT_EQ(membership_.NotReady(), "");
}

TEST_F(MembershipTest, TheLossOfAMemberStopsTheOthersAndTheyGoOnWithoutIt) {
  ServeWith({1, 2, 3});
  membership_.OnLost(WorkerId(2), true, now_);
  EXPECT_EQ(membership_.TakeLoss(), Membership::Loss::kCrash);
  EXPECT_THAT(Said(), ElementsAre("1 stop", "3 stop"));
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "3 prepare"));
  Serve({1, 3});
}

TEST_F(MembershipTest, AnArrivalIsSetUpWhileTheOthersServe) {
  ServeWith({1, 2});
  Join(3);
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare", "3 prepare"));
  EXPECT_TRUE(membership_.running());
  EXPECT_EQ(membership_.TakeLoss(), std::nullopt);
  Serve({1, 2, 3});
}

TEST_F(MembershipTest, AnArrivalThatDiesInItsSetUpDisturbsNobody) {
  ServeWith({1, 2});
  Join(3);
  Advance();
  membership_.OnLost(WorkerId(3), true, now_);
  Advance();
  EXPECT_TRUE(membership_.running());
  EXPECT_EQ(membership_.ready(), nullptr);
}

TEST_F(MembershipTest, AnArrivalThatCannotBeReachedSitsOutForGrowingTimes) {
  ServeWith({1, 2});
  Join(3);
  Advance();
  Said();
  Fault(1, epoch_.value, {2});  // rank 2 is worker 3
  Advance(Membership::kJudgeDelay);
  EXPECT_THAT(Said(), IsEmpty());
  Advance(Membership::kBenchMin);
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare", "3 prepare"));
  Fault(3, epoch_.value, {0});  // whoever says it: the newcomer it is
  Advance(Membership::kJudgeDelay);
  Advance(Membership::kBenchMin);
  EXPECT_THAT(Said(), IsEmpty());
  Advance(Membership::kBenchMin);
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare", "3 prepare"));
  EXPECT_TRUE(membership_.running());
}

class WithStandby : public MembershipTest {
 protected:
  WithStandby() : MembershipTest({.workers = 2, .workers_max = 2}) {}
};

TEST_F(WithStandby, AStandbyTakesALostOnesPlace) {
  ServeWith({1, 2});
  Join(3);
  ExpectItTakesALostOnesPlace();
}

// Of workers that have memory for so many ranks of an epoch.
class WithMemoryForRanks : public MembershipTest {
 protected:
  explicit WithMemoryForRanks(int workers = 2) : MembershipTest({.workers = workers}) {}
  void Join(uint32_t id, uint32_t ranks_max) {
    v1::Hello hello = FakeWorker(absl::StrCat("worker-", id)).hello();
    hello.set_ranks_max(ranks_max);
    membership_.OnJoined(WorkerId(id), hello, now_);
  }
};

TEST_F(WithMemoryForRanks, FurtherWorkersStandBy) {
  Join(1, 3);
  Join(2, 2);
  Advance();
  Serve({1, 2});
  Join(3, 2);
  ExpectItTakesALostOnesPlace();
}

TEST_F(WithMemoryForRanks, AsManyServeAsCanTogether) {
  for (uint32_t id : {1, 2, 3}) Join(id, id == 2 ? 1 : 3);
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "3 prepare"));
  Serve({1, 3});
  Join(4, 0);
  Advance();
  Serve({1, 3, 4});
  Join(5, 0);
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
}

TEST_F(WithMemoryForRanks, OneThatStandsByTakesThePlaceOfOneThatSitsOut) {
  for (uint32_t id : {1, 2, 3}) Join(id, 2);
  Advance();
  Serve({1, 2});
  membership_.OnCut(WorkerId(1), WorkerId(2), now_);
  Said();
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "3 prepare"));
}

class WithMemoryForTooFewRanks : public WithMemoryForRanks {
 protected:
  WithMemoryForTooFewRanks() : WithMemoryForRanks(3) {}
};

TEST_F(WithMemoryForTooFewRanks, SaysThatAGroupCanNeverBegin) {
  for (uint32_t id : {1, 2, 3}) Join(id, 2);
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
  EXPECT_THAT(membership_.NotReady(), HasSubstr("3 workers are to begin together, those that are here have memory for "
                                                "2 in a group"));
  EXPECT_THAT(membership_.NotReady(), HasSubstr("--workers"));
  Join(4, 5);
  Join(5, 5);
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
  Join(6, 5);
  Advance();
  EXPECT_THAT(Said(), ElementsAre("4 prepare", "5 prepare", "6 prepare"));
}

TEST_F(MembershipTest, AFaultStartsAnotherEpochWithTheSameMembersAfterAGrowingDelay) {
  ServeWith({1, 2});
  Fault(1, epoch_.value, {1});
  Fault(2, epoch_.value, {0});  // of the same trouble; the epoch is already over
  EXPECT_EQ(membership_.TakeLoss(), Membership::Loss::kFault);
  Said();
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
  Advance(Membership::kRetryMin);
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare"));
  Serve({1, 2});
}

TEST_F(MembershipTest, TwoThatCannotReachEachOtherAreParted) {
  ServeWith({1, 2, 3});
  membership_.OnCut(WorkerId(1), WorkerId(3), now_);
  EXPECT_EQ(membership_.TakeLoss(), Membership::Loss::kFault);
  Said();
  Advance();
  EXPECT_THAT(Said(), ElementsAre("1 prepare", "2 prepare")) << "of two that accuse each other the higher rank goes";
}

TEST_F(MembershipTest, TheOneThatMostCannotReachSitsOut) {
  ServeWith({1, 2, 3});
  Fault(2, epoch_.value, {});
  Advance(Membership::kRetryMin);
  Said();
  Fault(2, epoch_.value, {0});
  Fault(3, epoch_.value, {0});
  Advance(Membership::kJudgeDelay);
  EXPECT_THAT(Said(), ElementsAre("2 prepare", "3 prepare"));
}

TEST_F(MembershipTest, WhoDoesNotAnswerTheSetUpSitsOut) {
  ServeWith({1, 2});
  Fault(1, epoch_.value, {});
  Advance(Membership::kRetryMin);
  Prepared(1);
  Said();
  Advance(Membership::kPrepareTimeout);
  EXPECT_THAT(Said(), ElementsAre("1 prepare"));
}

TEST_F(MembershipTest, IgnoresWhatBelongsToAnotherEpoch) {
  ServeWith({1, 2});
  Fault(1, epoch_.value - 1, {});
  Prepared(1, epoch_.value + 1);
  EXPECT_TRUE(membership_.running());
}

TEST_F(MembershipTest, AnAnswerThatWasNotAskedForBreaksTheProtocol) {
  ServeWith({1, 2});
  Join(3);
  Advance();
  v1::Prepared prepared;
  prepared.set_epoch(epoch_.value);
  EXPECT_TRUE(membership_.OnPrepared(WorkerId(1), prepared).ok());
  EXPECT_FALSE(membership_.OnPrepared(WorkerId(1), prepared).ok());
  v1::Configured configured;
  configured.set_epoch(epoch_.value);
  EXPECT_FALSE(membership_.OnConfigured(WorkerId(1), configured).ok());
}

TEST_F(MembershipTest, ALeavingWorkerIsNeededUntilTheNextEpoch) {
  ServeWith({1, 2});
  membership_.OnLeaving(WorkerId(1), now_);
  Advance();
  EXPECT_THAT(Said(), IsEmpty()) << "it still has sequences";
  membership_.OnDrained(WorkerId(1), now_);
  Advance();
  EXPECT_THAT(Said(), ElementsAre("2 prepare"));
  EXPECT_THAT(membership_.Releasable(false), IsEmpty());
  Serve({2});
  EXPECT_THAT(membership_.Releasable(false), ElementsAre(WorkerId(1)));
}

TEST_F(MembershipTest, AfterARestartOfTheRouterThoseThatServedBeforeDoNotWaitForEver) {
  Join(1, 77);
  Advance();
  EXPECT_THAT(Said(), IsEmpty());
  Advance(Membership::kRejoinGrace);
  EXPECT_THAT(Said(), ElementsAre("1 prepare"));
}

}  // namespace
}  // namespace braid
