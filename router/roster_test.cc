#include "router/roster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "router/fake_worker.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RosterTest : public ::testing::Test {
 protected:
  v1::Hello NewHello() { return FakeWorker("worker").hello(); }
  void Attach(uint32_t id) {
    ASSERT_TRUE(roster_.OnOpened(WorkerId(id), now_).ok());
    ASSERT_TRUE(roster_.OnHello(WorkerId(id), NewHello()).ok());
    actions_.clear();
  }
  // Time passes, in which only some say something; who is given up.
  std::vector<WorkerId> Pass(absl::Duration time, std::vector<uint32_t> alive) {
    std::vector<WorkerId> silent;
    for (const absl::Time end = now_ + time; now_ < end && silent.empty();) {
      now_ += absl::Milliseconds(100);
      for (uint32_t id : alive) roster_.OnHeard(WorkerId(id), now_);
      silent = roster_.Silent(now_);
    }
    return silent;
  }

  RouterOptions options_;
  std::vector<Action> actions_;
  Roster roster_{options_, &actions_};
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(RosterTest, WelcomesAWorkerAndTellsItHowOftenToBeat) {
  ASSERT_TRUE(roster_.OnOpened(WorkerId(1), now_).ok());
  ASSERT_TRUE(roster_.OnHello(WorkerId(1), NewHello()).ok());
  const v1::Welcome& welcome = std::get<SendToWorker>(actions_.at(0)).message.welcome();
  EXPECT_EQ(welcome.worker_id(), 1u);
  EXPECT_EQ(welcome.heartbeat_ms(), 500u);
}

TEST_F(RosterTest, RefusesAWorkerThatDiffersAndSaysInWhat) {
  Attach(1);
  ASSERT_TRUE(roster_.OnOpened(WorkerId(2), now_).ok());
  v1::Hello odd = NewHello();
  odd.set_model_digest("another");
  absl::Status status = roster_.OnHello(WorkerId(2), odd);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StdView(status.message())), HasSubstr("model_digest"));
  odd = NewHello();
  odd.set_kv_type("int8");
  EXPECT_THAT(std::string(StdView(roster_.OnHello(WorkerId(2), odd).message())), HasSubstr("kv_type"));
  odd = NewHello();
  odd.set_arithmetic("cuda bf16 fast");
  EXPECT_THAT(std::string(StdView(roster_.OnHello(WorkerId(2), odd).message())),
              HasSubstr("hello.arithmetic is cuda bf16 fast, but worker \"worker\" attached with fake"));
  odd = NewHello();
  odd.set_expert_count(3);
  odd.set_expert_slots(3);
  EXPECT_THAT(std::string(StdView(roster_.OnHello(WorkerId(2), odd).message())), HasSubstr("expert_count"));
}

TEST_F(RosterTest, RefusesAHelloThatMakesNoSense) {
  ASSERT_TRUE(roster_.OnOpened(WorkerId(1), now_).ok());
  const std::vector<std::function<void(v1::Hello&)>> spoils = {
      [](v1::Hello& hello) { hello.set_kv_blocks(~uint64_t{0}); },
      [](v1::Hello& hello) { hello.set_kv_block_tokens(0); },
      [](v1::Hello& hello) { hello.clear_arithmetic(); },
      [](v1::Hello& hello) { hello.set_moe_layers(0); },
      [](v1::Hello& hello) { hello.set_moe_layers(~0u); },
      [](v1::Hello& hello) { hello.set_expert_slots(5); },
      [](v1::Hello& hello) { hello.set_epoch(~uint64_t{0}); },
      [](v1::Hello& hello) { hello.set_ranks_max(~0u); },
      [](v1::Hello& hello) { hello.set_group(std::string(1000, 'x')); },
      [](v1::Hello& hello) { hello.set_host(std::string(1000, 'x')); },
  };
  for (const auto& spoil : spoils) {
    v1::Hello hello = NewHello();
    spoil(hello);
    EXPECT_EQ(roster_.OnHello(WorkerId(1), hello).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(roster_.OnHello(WorkerId(1), NewHello()).ok());
  EXPECT_FALSE(roster_.OnHello(WorkerId(1), NewHello()).ok()) << "hello comes once";
}

TEST_F(RosterTest, GivesUpASilentWorker) {
  Attach(1);
  Attach(2);
  EXPECT_THAT(Pass(options_.heartbeat_timeout, {1}), IsEmpty());
  EXPECT_THAT(Pass(absl::Milliseconds(200), {1}), ElementsAre(WorkerId(2)));
}

TEST_F(RosterTest, GivesUpAStreamThatNeverSaysHello) {
  ASSERT_TRUE(roster_.OnOpened(WorkerId(1), now_).ok());
  EXPECT_THAT(Pass(options_.heartbeat_timeout + absl::Milliseconds(200), {}), ElementsAre(WorkerId(1)));
}

TEST_F(RosterTest, ARouterThatSleptAccusesNobody) {
  Attach(1);
  roster_.Silent(now_);
  now_ += absl::Minutes(5);
  EXPECT_THAT(roster_.Silent(now_), IsEmpty());
  EXPECT_THAT(Pass(options_.heartbeat_timeout + absl::Milliseconds(200), {1}), IsEmpty());
}

TEST_F(RosterTest, SendsHeartbeatsToEveryWorker) {
  Attach(1);
  Attach(2);
  for (int i = 0; i < 20; ++i) roster_.SendHeartbeats(Epoch(1), now_ += absl::Milliseconds(100));
  EXPECT_EQ(actions_.size(), 8u);
}

}  // namespace
}  // namespace braid
