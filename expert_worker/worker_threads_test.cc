#include "expert_worker/worker_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "expert_worker/late_engine.h"
#include "expert_worker/router_messages.h"
#include "expert_worker/tiny_model.h"
#include "model/engine.h"

// The threads of a worker whose steps run on a device, which goes on when the test says so.

namespace braid {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::Duration kExchange = absl::Milliseconds(7);  // of each step

// All experts are here, and fail when they are told to.
class TestExperts : public EpochExperts, public ExpertRunner {
 public:
  TestExperts(LocalExperts* local, std::atomic<int>* fail_steps, const std::atomic<bool>* can_begin_ahead)
      : local_(*local), fail_steps_(*fail_steps), can_begin_ahead_(*can_begin_ahead) {}
  ExpertRunner& runner() override { return *this; }
  void BeginStep(uint64_t step, int) override { fails_ = static_cast<int>(step) == fail_steps_; }
  bool CanBeginAhead(int) const override { return can_begin_ahead_; }
  std::vector<int> suspects() const override { return {}; }
  std::vector<uint64_t> TakeExpertRows() override { return local_.TakeExpertRows(); }
  absl::Duration TakeExchangeTime() override { return kExchange; }
  absl::Status Run(const RoutedBatch& batch) override {
    return fails_ ? absl::UnavailableError("a device is gone") : local_.Run(batch);
  }

 private:
  LocalExperts& local_;
  std::atomic<int>& fail_steps_;
  const std::atomic<bool>& can_begin_ahead_;
  bool fails_ = false;
};

class WorkerThreadsTest : public testing::Test {
 protected:
  WorkerThreadsTest() {
    drawer_.ready = [this](int draw) { return draw < device_came_to_; };
    threads_ = std::make_unique<WorkerThreads>(
        EpochMember::Shared{
            .config = &model_.config(),
            .make_experts = [this](Exchange*, EpochPlace) -> absl::StatusOr<std::unique_ptr<EpochExperts>> {
              return std::make_unique<TestExperts>(&local_, &fail_step_, &can_begin_ahead_);
            },
            .load_experts = [](auto, int, const auto&) -> absl::StatusOr<ExpertHold> { return ExpertHold(); },
            .recover =
                [this] {
                  ++recovered_;
                  return recovers_;
                },
            .give_up = [this](const absl::Status& why) { given_up_ = why; }},
        &runner_, &probe_);
    threads_->Attach([this](v1::AttachRequest message) {
      absl::MutexLock lock(&mutex_);
      said_.push_back(std::move(message));
    });
  }
  ~WorkerThreadsTest() override {
    device_came_to_ = 1 << 30;
    threads_.reset();
  }

  // The next answer; one without a case if there is none in time.
  v1::AttachRequest Next() {
    absl::MutexLock lock(&mutex_);
    const auto said = [this] { return !said_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&said), kPatience)) return {};
    v1::AttachRequest message = std::move(said_.front());
    said_.pop_front();
    return message;
  }
  bool Silent() {
    absl::MutexLock lock(&mutex_);
    return said_.empty();
  }
  void Post(v1::AttachResponse message) { ASSERT_EQ(threads_->Post(std::move(message)), absl::OkStatus()); }

  // Serves `epoch`; sequence 1 goes on with its first `length` tokens if that is not 0.
  void Serve(uint64_t epoch, uint32_t length = 0) {
    Post(Prepare(epoch, 0, 1));
    ASSERT_EQ(Next().prepared().epoch(), epoch);
    v1::AttachResponse configure;
    configure.mutable_configure()->set_epoch(epoch);
    configure.mutable_configure()->add_addresses();
    for (int layer = 0; layer < model_.config().moe_layer_count(); ++layer) {
      v1::LayerPlacement* const placement = configure.mutable_configure()->add_placement();
      for (int expert = 0; expert < model_.config().experts; ++expert)
        placement->add_replicas(1), placement->add_ranks(0);
    }
    Post(configure);
    ASSERT_EQ(Next().configured().epoch(), epoch);
    Post(length > 0 ? Begin(epoch, {{1, length}}) : Begin(epoch));
    const v1::AttachRequest begun = Next();
    ASSERT_EQ(begun.begun().epoch(), epoch);
    ASSERT_EQ(begun.begun().missing_size(), 0);
  }

  // Step `step` of the epoch: the prompt of sequence 1, or the token that follows at `position`.
  void PostPrompt(uint64_t epoch, float repetition_penalty = 1) {
    v1::AttachResponse message = Step(epoch, 1);
    v1::StepPlan* const plan = message.mutable_step_plan();
    v1::SequenceStart* const start = plan->add_start();
    start->set_sequence(1);
    start->set_prompt_tokens(kPrompt);
    start->set_kv_blocks(2);
    start->mutable_sampling()->set_top_p(1);
    start->mutable_sampling()->set_repetition_penalty(repetition_penalty);
    v1::SequenceChunk* const chunk = plan->add_chunks();
    chunk->set_sequence(1);
    for (int i = 0; i < kPrompt; ++i) chunk->add_tokens(10 + i);
    chunk->set_sample(true);
    Post(message);
  }
  void PostNext(uint64_t epoch, uint64_t step, uint32_t position) {
    v1::AttachResponse message = Step(epoch, step);
    v1::SequenceChunk* const chunk = message.mutable_step_plan()->add_chunks();
    chunk->set_sequence(1);
    chunk->set_position(position);
    chunk->set_follows(true);
    chunk->set_sample(true);
    Post(message);
  }
  static v1::AttachResponse Step(uint64_t epoch, uint64_t step) {
    v1::AttachResponse message = Plan(epoch, step);
    message.mutable_step_plan()->set_rows_max(kPrompt);
    return message;
  }

  // The token of step `step`, whose answer comes next.
  TokenId Token(uint64_t step) {
    const v1::AttachRequest message = Next();
    EXPECT_EQ(message.step_done().step(), step) << message.ShortDebugString();
    EXPECT_EQ(message.step_done().exchange_us(), absl::ToInt64Microseconds(kExchange));
    return message.step_done().sampled_size() == 1 ? message.step_done().sampled(0).token().token() : -2;
  }
  // What the sequence says if each step waits for the one before.
  std::vector<TokenId> Expected(int tokens) {
    device_came_to_ = 1 << 30;
    std::vector<TokenId> expected;
    Serve(1);
    PostPrompt(1);
    expected.push_back(Token(1));
    for (int i = 1; i < tokens; ++i) {
      PostNext(1, static_cast<uint64_t>(i + 1), static_cast<uint32_t>(kPrompt + i - 1));
      expected.push_back(Token(static_cast<uint64_t>(i + 1)));
    }
    device_came_to_ = drawer_.draws_begun();
    Post(Stop(1));
    return expected;
  }
  void AwaitDraws(int more, int before) {
    const absl::Time give_up = absl::Now() + kPatience;
    while (drawer_.draws_begun() < before + more && absl::Now() < give_up) std::this_thread::yield();
    ASSERT_EQ(drawer_.draws_begun(), before + more);
  }

  static constexpr int kPrompt = 4;
  const TinyWorkerModel model_;
  ThreadPool pool_{1};
  HostStates states_{model_.config(), {.blocks = 8, .sequences = 2}};
  const std::unique_ptr<Engine> engine_ = MakeEngine(&model_.config(), &model_.tensors(), &states_, &pool_);
  LateEngine drawer_{engine_.get(), TinyWorkerModel::kNoToken};
  LocalExperts local_{model_.config().experts, &engine_->experts(), &pool_};
  StepRunner runner_{
      &model_.config(),
      &states_,
      &pool_,
      [this](auto chunks, ExpertRunner& experts, auto* logits) { return drawer_.Run(chunks, experts, logits); },
      {.masked = {TinyWorkerModel::kNoToken}},
      [this](int begin, int end, auto* logits) { return drawer_.Logits(begin, end, logits); },
      &drawer_};
  Metrics metrics_;
  WorkerProbe probe_{&metrics_, 8, false};
  std::atomic<int> device_came_to_{0}, fail_step_{0};
  std::atomic<bool> can_begin_ahead_{true};
  std::atomic<int> recovered_{0};
  absl::Status recovers_, given_up_;  // what the device says after an error; what was told whoever can end all this

  absl::Mutex mutex_;
  std::deque<v1::AttachRequest> said_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<WorkerThreads> threads_;
};

TEST_F(WorkerThreadsTest, StartsAStepWhileTheOneBeforeIsOnTheDevice) {
  const std::vector<TokenId> expected = Expected(5);
  const int before = drawer_.draws_begun();
  Serve(2);
  PostPrompt(2);
  AwaitDraws(1, before);
  for (int i = 0; i < 4; ++i) {
    PostNext(2, static_cast<uint64_t>(i + 2), static_cast<uint32_t>(kPrompt + i));
    AwaitDraws(i + 2, before);  // nobody knows the token yet
    EXPECT_TRUE(Silent());
    ++device_came_to_;
    EXPECT_EQ(Token(static_cast<uint64_t>(i + 1)), expected[static_cast<size_t>(i)]);
  }
  ++device_came_to_;
  EXPECT_EQ(Token(5), expected[4]);
}

TEST_F(WorkerThreadsTest, WaitsWhereTheHostHasToLookOrToWait) {
  const int before = drawer_.draws_begun();
  Serve(1);
  PostPrompt(1, /*repetition_penalty=*/1.1f);
  PostNext(1, 2, kPrompt);
  EXPECT_GE(Token(1), 0);
  EXPECT_GE(Token(2), 0);
  EXPECT_EQ(drawer_.draws_begun(), before) << "all were the host's";

  can_begin_ahead_ = false;
  Serve(2);
  PostPrompt(2);
  PostNext(2, 2, kPrompt);
  AwaitDraws(1, before);
  ++device_came_to_;
  EXPECT_GE(Token(1), 0);
  AwaitDraws(2, before);
  ++device_came_to_;
  EXPECT_GE(Token(2), 0);
}

TEST_F(WorkerThreadsTest, TwoStepsThatAreStoppedNeverHappened) {
  const std::vector<TokenId> expected = Expected(3);
  const int before = drawer_.draws_begun();
  Serve(2);
  PostPrompt(2);
  ++device_came_to_;
  ASSERT_EQ(Token(1), expected[0]);
  PostNext(2, 2, kPrompt);
  PostNext(2, 3, kPrompt + 1);
  AwaitDraws(3, before);
  Post(Stop(2));
  device_came_to_ = device_came_to_ + 2;
  Serve(3, kPrompt);
  v1::AttachResponse again = Step(3, 1);
  v1::SequenceChunk* const chunk = again.mutable_step_plan()->add_chunks();
  chunk->set_sequence(1);
  chunk->set_position(kPrompt);
  chunk->add_tokens(expected[0]);
  chunk->set_sample(true);
  Post(again);
  PostNext(3, 2, kPrompt + 1);
  device_came_to_ = device_came_to_ + 2;
  EXPECT_EQ(Token(1), expected[1]);
  EXPECT_EQ(Token(2), expected[2]);
}

TEST_F(WorkerThreadsTest, AFaultIsOfTheFirstOfTwoSteps) {
  const std::vector<TokenId> expected = Expected(2);
  const int before = drawer_.draws_begun();
  Serve(2);
  PostPrompt(2);
  ++device_came_to_;
  ASSERT_EQ(Token(1), expected[0]);
  fail_step_ = 2;
  PostNext(2, 2, kPrompt);
  PostNext(2, 3, kPrompt + 1);
  AwaitDraws(3, before);
  device_came_to_ = device_came_to_ + 2;
  EXPECT_EQ(Next().fault().step(), 2u);
  EXPECT_TRUE(threads_->WaitUntilOutOfStep(kPatience));
  EXPECT_TRUE(Silent()) << "of the step behind it nobody hears";
  EXPECT_EQ(recovered_, 1) << "when that has ended, too";
  EXPECT_EQ(given_up_, absl::OkStatus());
  Serve(3, kPrompt);
  EXPECT_EQ(runner_.sequences().size(), 1);
}

TEST_F(WorkerThreadsTest, AStepBehindAFaultIsNotRun) {
  const std::vector<TokenId> expected = Expected(1);
  const int before = drawer_.draws_begun();
  Serve(2);
  fail_step_ = 1;
  can_begin_ahead_ = false;
  PostPrompt(2);
  PostNext(2, 2, kPrompt);
  AwaitDraws(1, before);
  ++device_came_to_;
  EXPECT_EQ(Next().fault().step(), 1u);
  EXPECT_TRUE(threads_->WaitUntilOutOfStep(kPatience));
  EXPECT_EQ(drawer_.draws_begun(), before + 1);
}

TEST_F(WorkerThreadsTest, EndsInTheMiddleOfTwoSteps) {
  Serve(1);
  PostPrompt(1);
  PostNext(1, 2, kPrompt);
  AwaitDraws(2, 0);
}

TEST_F(WorkerThreadsTest, AWorkerWhoseDeviceHasFailedGivesUpBeforeItSaysSo) {
  recovers_ = absl::InternalError("it fell off the bus");
  Serve(2);
  fail_step_ = 1;
  PostPrompt(2);
  ++device_came_to_;
  EXPECT_EQ(Next().fault().step(), 1u);
  EXPECT_EQ(given_up_, recovers_);
}

}  // namespace
}  // namespace braid
