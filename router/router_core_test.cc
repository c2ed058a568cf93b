#include "router/router_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "base/status.h"
#include "monitoring/metrics.h"
#include "router/fake_worker.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What a gateway has seen of one sequence.
struct Seen {
  int accepted = 0;
  uint32_t cached_tokens = 0;
  std::vector<TokenId> tokens;
  std::vector<TokenId> scored;  // prompt tokens with a log probability
  std::optional<v1::SequenceFinished::Reason> finished;
  std::optional<absl::Status> end;
  absl::Duration retry_after;
};

v1::GenerateSequenceRequest NewRequest(std::vector<TokenId> prompt, uint32_t max_new_tokens) {
  v1::GenerateSequenceRequest request;
  request.mutable_prompt()->Add(prompt.begin(), prompt.end());
  request.set_max_new_tokens(max_new_tokens);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_repetition_penalty(1);
  return request;
}

std::vector<TokenId> Prompt(int tokens, TokenId first = 1) {
  std::vector<TokenId> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back((first + 7 * i) % 1000);
  return prompt;
}

// A core, its workers and its gateways in one thread, with time that passes when told.
class Cluster {
 public:
  explicit Cluster(RouterOptions options) : core(options, Epoch(100), &probe) {}

  uint32_t Attach(uint64_t kv_blocks = 1000, std::function<void(v1::Hello&)> change = {}) {
    const uint32_t id = ++last_worker_;
    workers[id] = std::make_unique<FakeWorker>(absl::StrCat("worker-", id), kv_blocks);
    if (change) change(workers[id]->hello());
    core.OnWorkerOpened(WorkerId(id), now);
    to_router_.emplace_back(id, workers[id]->SayHello());
    return id;
  }
  void Break(uint32_t id) {
    CollectComplaints();
    workers.erase(id);
    core.OnWorkerLost(WorkerId(id), now);
  }
  void Say(uint32_t id, const v1::AttachRequest& message) { core.OnWorkerMessage(WorkerId(id), message, now); }
  uint64_t Generate(const v1::GenerateSequenceRequest& request) {
    core.OnGenerate(SequenceId(++last_sequence_), request, now);
    return last_sequence_;
  }
  void Cancel(uint64_t id) {
    core.OnCancel(SequenceId(id));
    cancelled_.push_back(id);
  }

  // One exchange of messages: what the core decides reaches the others, and their answers the core.
  bool Round() {
    core.Advance(now);
    for (Action& action : core.TakeActions()) {
      std::visit([this](auto& what) { Do(what); }, action);
    }
    if (to_router_.empty()) return false;
    for (auto& [id, message] : std::exchange(to_router_, {})) {
      if (workers.contains(id)) core.OnWorkerMessage(WorkerId(id), message, now);
    }
    return true;
  }
  // Of slow workers: the steps that each has been sent and has not ended.
  int steps_running(uint32_t id) const {
    return static_cast<int>(
        std::count_if(running_.begin(), running_.end(), [id](const auto& m) { return m.first == id; }));
  }
  // Such a step ends here, after so much time; the router looks at the clock before that, as it wishes to.
  void StepEnds(uint32_t id, absl::Duration time) {
    const absl::Time end = now + time;
    now = std::clamp(core.WakeAt(), now, end);
    Round();
    now = end;
    const auto done = std::find_if(running_.begin(), running_.end(), [id](const auto& m) { return m.first == id; });
    ASSERT_NE(done, running_.end());
    to_router_.push_back(*done);
    running_.erase(done);
    Round();
    Round();  // the router acts on it
  }
  // Steps that are void are not answered.
  void ForgetRunning() { running_.clear(); }
  // A round whose messages one worker does not answer.
  void RoundWithout(uint32_t id) {
    hung.push_back(id);
    Round();
    hung.pop_back();
  }
  void RunUntilQuiet() {
    for (int rounds = 0; Round(); ++rounds) ASSERT_LT(rounds, 10000);
  }
  void Pass(absl::Duration time) {
    for (const absl::Time end = now + time; now < end; now += absl::Milliseconds(100)) RunUntilQuiet();
  }
  v1::GetStatusResponse Status() {
    v1::GetStatusResponse status;
    core.FillStatus(&status);
    return status;
  }
  std::vector<std::string> Complaints() {
    CollectComplaints();
    return complaints_;
  }

  Metrics metrics;
  RouterProbe probe{&metrics};
  absl::Time now = absl::UnixEpoch();
  RouterCore core;
  std::map<uint32_t, std::unique_ptr<FakeWorker>> workers;
  std::map<uint64_t, Seen> seen;
  std::map<uint32_t, absl::Status> closed;
  std::vector<uint32_t> hung;                                     // workers that say nothing but heartbeats
  uint32_t stuck = 0;                                             // a worker that never begins an epoch
  std::function<void(v1::Sampled*, TokenId first)> spoil_drafts;  // changes what comes of drafts, if any was right
  int rows_ahead = 0;                                             // in steps that were sent ahead
  bool slow = false;                                              // steps take until StepEnds
  uint64_t poison = 0;                                            // a sequence that kills whoever computes it,
  uint32_t poison_position = 0;                                   // by its rows from here on,
  uint32_t poisoned = 0;                                          // as it just has this one

 private:
  void Do(SendToWorker& action) {
    auto worker = workers.find(action.worker.value);
    if (worker == workers.end()) return;
    for (const v1::SequenceChunk& chunk : action.message.step_plan().chunks()) {
      const uint32_t end = chunk.position() + std::max(1u, static_cast<uint32_t>(chunk.tokens_size()));
      if (poison == chunk.sequence() && end > poison_position) poisoned = action.worker.value;
      rows_ahead += chunk.follows();
    }
    if (poisoned == action.worker.value) return;
    if (action.message.has_begin() && stuck == action.worker.value) return;
    std::optional<v1::AttachRequest> answer = worker->second->On(action.message);
    for (int i = 0; spoil_drafts && answer && i < answer->step_done().sampled_size(); ++i) {
      v1::Sampled* sampled = answer->mutable_step_done()->mutable_sampled(i);
      if (sampled->more_size() > 0) spoil_drafts(sampled, sampled->token().token());
    }
    const bool is_hung = std::find(hung.begin(), hung.end(), action.worker.value) != hung.end();
    if (!answer || (is_hung && !answer->has_heartbeat())) return;
    (slow && answer->has_step_done() ? running_ : to_router_).emplace_back(action.worker.value, *answer);
  }
  void Do(CloseWorker& action) {
    closed[action.worker.value] = action.status;
    CollectComplaints();
    workers.erase(action.worker.value);
  }
  void Do(SendToSequence& action) {
    Seen& s = seen[action.sequence.value];
    const v1::GenerateSequenceResponse& event = action.event;
    EXPECT_FALSE(s.end);
    EXPECT_TRUE(event.has_accepted() || s.accepted == 1);
    s.accepted += event.has_accepted();
    if (event.has_accepted()) s.cached_tokens = event.accepted().cached_tokens();
    if (event.has_tokens()) {
      const uint32_t first = seen_before[action.sequence.value];
      EXPECT_EQ(event.tokens().position(), first + s.tokens.size());
      s.tokens.insert(s.tokens.end(), event.tokens().tokens().begin(), event.tokens().tokens().end());
    }
    if (event.has_prompt_logprobs()) {
      EXPECT_EQ(event.prompt_logprobs().position(), s.scored.size() + 1);
      for (const auto& logprob : event.prompt_logprobs().logprobs()) s.scored.push_back(logprob.token());
    }
    if (event.has_finished()) s.finished = event.finished().reason();
  }
  void Do(EndSequence& action) {
    EXPECT_THAT(cancelled_, ::testing::Not(::testing::Contains(action.sequence.value)));
    seen[action.sequence.value].end = action.status;
    seen[action.sequence.value].retry_after = action.retry_after;
  }
  void CollectComplaints() {
    for (auto& [id, worker] : workers) {
      complaints_.insert(complaints_.end(), worker->complaints().begin(), worker->complaints().end());
    }
  }

  uint32_t last_worker_ = 0;
  uint64_t last_sequence_ = 0;
  std::vector<uint64_t> cancelled_;
  std::deque<std::pair<uint32_t, v1::AttachRequest>> to_router_, running_;
  std::vector<std::string> complaints_;

 public:
  std::map<uint64_t, uint32_t> seen_before;  // tokens of an earlier call, by sequence
};

constexpr RouterOptions TwoWorkers() {
  return {.workers = 2, .step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8, .queue_max = 4};
}

class RouterCoreTest : public ::testing::Test {
 protected:
  void Start() {
    cluster.Attach();
    cluster.Attach();
    cluster.RunUntilQuiet();
    ASSERT_EQ(cluster.core.NotReady(), "");
  }
  void TearDown() override { EXPECT_THAT(cluster.Complaints(), IsEmpty()); }
  void ExpectAnswer(uint64_t id, const std::vector<TokenId>& prompt, int tokens) {
    EXPECT_EQ(cluster.seen[id].tokens, FakeWorker::Answer(prompt, 0, tokens));
    EXPECT_EQ(cluster.seen[id].accepted, 1);
    ASSERT_TRUE(cluster.seen[id].end);
    EXPECT_TRUE(cluster.seen[id].end->ok()) << *cluster.seen[id].end;
    EXPECT_EQ(cluster.seen[id].finished, v1::SequenceFinished::REASON_LENGTH);
  }
  absl::StatusCode EndOf(const v1::GenerateSequenceRequest& request) {
    const uint64_t id = cluster.Generate(request);
    cluster.RunUntilQuiet();
    return cluster.seen[id].end.value_or(absl::OkStatus()).code();
  }

  // Whoever computes `poison` dies, and another one comes, until it has ended. Returns how many died.
  int CrashesUntilTheEndOf(uint64_t poison) {
    int crashes = 0;
    cluster.poison = poison;
    for (int round = 0; round < 2000 && !cluster.seen[poison].end; ++round) {
      cluster.now += absl::Milliseconds(10);
      cluster.Round();
      if (!cluster.poisoned) continue;
      cluster.Break(std::exchange(cluster.poisoned, 0));
      cluster.Attach();
      ++crashes;
    }
    return crashes;
  }

  Cluster cluster{TwoWorkers()};
};

TEST_F(RouterCoreTest, AnswersWithTheTokensOfTheModel) {
  Start();
  const uint64_t a = cluster.Generate(NewRequest(Prompt(100), 20));
  const uint64_t b = cluster.Generate(NewRequest(Prompt(3, 5), 30));
  cluster.RunUntilQuiet();
  ExpectAnswer(a, Prompt(100), 20);
  ExpectAnswer(b, Prompt(3, 5), 30);
}

TEST_F(RouterCoreTest, TheAnswerDoesNotDependOnWhoElseIsServed) {
  Start();
  std::map<uint64_t, std::vector<TokenId>> prompts;
  for (int i = 0; i < 12; ++i) {
    std::vector<TokenId> prompt = Prompt(1 + 17 * i, i);
    prompts[cluster.Generate(NewRequest(prompt, 25))] = prompt;
    cluster.Round();
  }
  cluster.RunUntilQuiet();
  for (const auto& [id, prompt] : prompts) ExpectAnswer(id, prompt, 25);
}

TEST_F(RouterCoreTest, EndsBehindAStopTokenAndDeliversIt) {
  Start();
  const std::vector<TokenId> answer = FakeWorker::Answer(Prompt(5), 0, 10);
  v1::GenerateSequenceRequest request = NewRequest(Prompt(5), 50);
  request.add_stop_tokens(answer[4]);
  const uint64_t id = cluster.Generate(request);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].tokens, std::vector<TokenId>(answer.begin(), answer.begin() + 5));
  EXPECT_EQ(cluster.seen[id].finished, v1::SequenceFinished::REASON_STOP);
}

TEST_F(RouterCoreTest, AResubmittedSequenceGoesOnWithTheSameTokens) {
  Start();
  const std::vector<TokenId> answer = FakeWorker::Answer(Prompt(40), 0, 20);
  v1::GenerateSequenceRequest request = NewRequest(Prompt(40), 20);
  request.mutable_generated()->Add(answer.begin(), answer.begin() + 7);
  cluster.seen_before[1] = 7;
  const uint64_t id = cluster.Generate(request);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].tokens, std::vector<TokenId>(answer.begin() + 7, answer.end()));
  EXPECT_EQ(cluster.seen[id].finished, v1::SequenceFinished::REASON_LENGTH);
}

TEST_F(RouterCoreTest, AResubmittedSequenceThatWasCompleteOnlyEnds) {
  Start();
  v1::GenerateSequenceRequest request = NewRequest(Prompt(40), 2);
  request.add_generated(1);
  request.add_generated(2);
  const uint64_t id = cluster.Generate(request);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].accepted, 1);
  EXPECT_THAT(cluster.seen[id].tokens, IsEmpty());
  EXPECT_EQ(cluster.seen[id].finished, v1::SequenceFinished::REASON_LENGTH);
  EXPECT_TRUE(cluster.seen[id].end->ok());
}

TEST_F(RouterCoreTest, NoTokenLeavesBeforeEveryWorkerHasReportedTheStep) {
  Start();
  cluster.hung = {2};
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 5));
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].accepted, 1);
  EXPECT_THAT(cluster.seen[id].tokens, IsEmpty());
}

// Whatever the moment, the loss of a worker costs a pause and no token.
TEST_F(RouterCoreTest, AWorkerLostAtAnyStepChangesNoToken) {
  for (int moment = 0; moment < 80; ++moment) {
    const int rounds = moment / 2;
    Cluster c(TwoWorkers());
    const uint32_t victim = c.Attach();
    c.Attach();
    c.RunUntilQuiet();
    const uint64_t a = c.Generate(NewRequest(Prompt(100), 20));
    const uint64_t b = c.Generate(NewRequest(Prompt(9, 5), 20));
    for (int i = 0; i < rounds; ++i) c.Round();
    if (moment % 2 == 1) c.RoundWithout(victim);  // it dies in a step that the other has completed
    c.Break(victim);
    EXPECT_EQ(c.core.NotReady(), "") << "it is expected back";
    if (moment % 3 == 0) c.Attach();  // a new one comes at once
    c.RunUntilQuiet();
    EXPECT_EQ(c.seen[a].tokens, FakeWorker::Answer(Prompt(100), 0, 20)) << "lost at moment " << moment;
    EXPECT_EQ(c.seen[b].tokens, FakeWorker::Answer(Prompt(9, 5), 0, 20)) << "lost at moment " << moment;
    EXPECT_TRUE(c.seen[a].end && c.seen[a].end->ok() && c.seen[b].end && c.seen[b].end->ok());
    EXPECT_THAT(c.Complaints(), IsEmpty());
  }
}

TEST_F(RouterCoreTest, AStepThatWasReportedByAWorkerBeforeItsEpochWasLostIsDiscarded) {
  Start();
  cluster.hung = {2};
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 5));
  cluster.RunUntilQuiet();  // worker 1 has answered, worker 2 has not
  cluster.hung = {};
  cluster.Break(2);
  cluster.RunUntilQuiet();
  ExpectAnswer(id, Prompt(3), 5);
}

TEST_F(RouterCoreTest, SurvivorsKeepTheirSequences) {
  Start();
  const uint64_t a = cluster.Generate(NewRequest(Prompt(100), 20));
  const uint64_t b = cluster.Generate(NewRequest(Prompt(90, 5), 20));
  for (int i = 0; i < 12; ++i) cluster.Round();
  cluster.Break(1);
  cluster.RunUntilQuiet();
  ExpectAnswer(a, Prompt(100), 20);
  ExpectAnswer(b, Prompt(90, 5), 20);
  const std::string text = cluster.metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("braid_router_sequences_requeued_total 1"));
  EXPECT_THAT(text, HasSubstr("braid_router_sequences_kept_total 1"));
}

TEST_F(RouterCoreTest, AWorkerThatComesTakesPartAndStepsGoOnMeanwhile) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(10), 60));
  for (int i = 0; i < 6; ++i) cluster.Round();
  const uint64_t epoch = cluster.Status().epoch();
  const size_t before = cluster.seen[id].tokens.size();
  const uint32_t third = cluster.Attach();
  for (int i = 0; i < 3; ++i) cluster.Round();
  EXPECT_EQ(cluster.Status().epoch(), epoch);
  EXPECT_GT(cluster.seen[id].tokens.size(), before) << "the set-up of the next epoch disturbs nobody";
  cluster.RunUntilQuiet();
  EXPECT_GT(cluster.Status().epoch(), epoch);
  EXPECT_TRUE(cluster.Status().workers(static_cast<int>(third) - 1).in_epoch());
  ExpectAnswer(id, Prompt(10), 60);
  EXPECT_THAT(cluster.metrics.Serialize(), HasSubstr("braid_router_epochs_lost_total 0"));
}

TEST_F(RouterCoreTest, ALeavingWorkerEndsWhatItHasAndGoes) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(50), 20));
  for (int i = 0; i < 6; ++i) cluster.Round();
  v1::AttachRequest leaving;
  leaving.mutable_leaving();
  cluster.Say(1, leaving);
  const uint64_t later = cluster.Generate(NewRequest(Prompt(5), 5));
  cluster.RunUntilQuiet();
  cluster.Pass(absl::Seconds(1));
  EXPECT_TRUE(cluster.closed.at(1).ok());
  ExpectAnswer(id, Prompt(50), 20);
  ExpectAnswer(later, Prompt(5), 5);
  EXPECT_THAT(cluster.metrics.Serialize(), HasSubstr("braid_router_sequences_requeued_total 0"));
  EXPECT_THAT(cluster.metrics.Serialize(), HasSubstr("braid_router_epochs_lost_total 0"));
}

TEST_F(RouterCoreTest, ALeavingWorkersLongSequencesGoOnElsewhere) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(50), 2000));
  for (int i = 0; i < 6; ++i) cluster.Round();
  v1::AttachRequest leaving;
  leaving.mutable_leaving();
  cluster.Say(1, leaving);
  for (int i = 0; i < 20; ++i) cluster.Round();
  EXPECT_FALSE(cluster.closed.contains(1));
  cluster.now += Membership::kLeavePatience;
  for (uint32_t worker : {1, 2}) {
    v1::AttachRequest beat;
    beat.mutable_heartbeat();
    cluster.Say(worker, beat);
  }
  for (int i = 0; i < 30; ++i) cluster.Round();
  EXPECT_TRUE(cluster.closed.contains(1));
  EXPECT_FALSE(cluster.seen[id].end) << "it goes on";
  cluster.RunUntilQuiet();
  ExpectAnswer(id, Prompt(50), 2000);
}

TEST_F(RouterCoreTest, TheLastWorkerThatLeavesFinishesAndTakesNothingNew) {
  Start();
  cluster.Break(2);
  cluster.RunUntilQuiet();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(50), 20));
  for (int i = 0; i < 6; ++i) cluster.Round();
  v1::AttachRequest leaving;
  leaving.mutable_leaving();
  cluster.Say(1, leaving);
  cluster.now += Membership::kLeavePatience;
  cluster.Say(1, leaving);
  cluster.Round();
  EXPECT_NE(cluster.core.NotReady(), "");
  cluster.RunUntilQuiet();
  ExpectAnswer(id, Prompt(50), 20);
  EXPECT_TRUE(cluster.closed.contains(1));
}

TEST_F(RouterCoreTest, ARequestThatKillsItsWorkersIsFoundAmongManyAndTheOthersGoOn) {
  Start();
  std::vector<uint64_t> others;
  for (int i = 0; i < 3; ++i) others.push_back(cluster.Generate(NewRequest(Prompt(4 + i), 30)));
  const uint64_t poison = cluster.Generate(NewRequest(Prompt(20), 30));
  for (int i = 0; i < 3; ++i) others.push_back(cluster.Generate(NewRequest(Prompt(14 + i), 30)));
  EXPECT_EQ(CrashesUntilTheEndOf(poison), 3) << "two for all that were there, one more to tell it from the others";
  EXPECT_EQ(cluster.seen[poison].end->code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(cluster.seen[poison].finished) << "never a clean end on a truncated answer";
  cluster.RunUntilQuiet();
  for (int i = 0; i < 6; ++i) ExpectAnswer(others[static_cast<size_t>(i)], Prompt(i < 3 ? 4 + i : 11 + i), 30);
}

TEST_F(RouterCoreTest, ARequestThatKillsItsWorkersWhenAloneEndsAtTheSecondCrash) {
  Start();
  const uint64_t poison = cluster.Generate(NewRequest(Prompt(20), 30));
  EXPECT_EQ(CrashesUntilTheEndOf(poison), 2);
  EXPECT_EQ(cluster.seen[poison].end->code(), absl::StatusCode::kAborted);
  cluster.RunUntilQuiet();
  EXPECT_EQ(EndOf(NewRequest(Prompt(20), 30)), absl::StatusCode::kAborted) << "nor when it is sent again";
  EXPECT_EQ(EndOf(NewRequest(Prompt(21), 30)), absl::StatusCode::kOk);
  cluster.now += Quarantine::kDuration;
  cluster.RunUntilQuiet();
  cluster.poison = 0;
  EXPECT_EQ(EndOf(NewRequest(Prompt(20), 30)), absl::StatusCode::kOk) << "but not for ever";
}

TEST_F(RouterCoreTest, AWorkerThatComesBackHasNotCrashed) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(20), 30));
  for (int i = 0; i < 5; ++i) {
    cluster.poison = id;
    while (!cluster.poisoned) cluster.Round();
    const uint32_t worker = std::exchange(cluster.poisoned, 0);
    const std::string name = cluster.workers[worker]->hello().name();
    const uint64_t epoch = cluster.Status().epoch();
    cluster.Break(worker);
    cluster.poison = 0;
    cluster.Attach(1000, [&](v1::Hello& hello) {
      hello.set_name(name);
      hello.set_epoch(epoch);
    });
    if (i % 2 == 0) cluster.Round();  // some are forgotten, some are on trial by then
  }
  cluster.Pass(absl::Seconds(5));
  ExpectAnswer(id, Prompt(20), 30);
}

TEST_F(RouterCoreTest, AWorkerThatIsSentAwayIsNoCrash) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(20), 30));
  cluster.poison = id;
  while (!cluster.poisoned) cluster.Round();
  cluster.Break(std::exchange(cluster.poisoned, 0));
  cluster.Attach();
  while (!cluster.poisoned) cluster.Round();
  cluster.core.Stop(absl::UnavailableError("the router is shutting down"), cluster.now);
  cluster.Round();
  EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kUnavailable) << "its gateway takes it to the next router";
}

// A worker dies every few steps: nobody who makes progress in between is taken for the cause.
TEST_F(RouterCoreTest, ALongAnswerSurvivesAnyNumberOfCrashes) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(20), 300));
  for (uint32_t victim = 1; !cluster.seen[id].end; ++victim) {
    ASSERT_LT(victim, 200u);
    for (int i = 0; i < 30; ++i) cluster.Round();
    if (!cluster.workers.contains(victim)) continue;
    cluster.Break(victim);
    cluster.Attach();
  }
  ExpectAnswer(id, Prompt(20), 300);
}

TEST_F(RouterCoreTest, EpochsRiseAlsoUnderARouterWhoseClockIsBehind) {
  cluster.Attach(1000, [](v1::Hello& hello) { hello.set_epoch(100'000); });
  cluster.Attach();
  cluster.RunUntilQuiet();
  cluster.Pass(absl::Seconds(5));
  EXPECT_GT(cluster.Status().epoch(), 100'000u);
}

TEST_F(RouterCoreTest, AFaultCostsAPauseOnly) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 20));
  for (int i = 0; i < 4; ++i) cluster.Round();
  v1::AttachRequest fault;
  fault.mutable_fault()->set_epoch(cluster.Status().epoch());
  fault.mutable_fault()->set_message("peer went away");
  cluster.Say(1, fault);
  cluster.RunUntilQuiet();
  EXPECT_FALSE(cluster.seen[id].end);
  cluster.Pass(absl::Seconds(1));
  ExpectAnswer(id, Prompt(3), 20);
  EXPECT_THAT(cluster.workers, SizeIs(2));
}

TEST_F(RouterCoreTest, AWorkerThatHangsInAStepIsGivenUp) {
  RouterOptions options = TwoWorkers();
  options.step_timeout = absl::Seconds(5);
  Cluster c(options);
  c.Attach();
  c.Attach();
  c.RunUntilQuiet();
  c.hung = {2};
  const uint64_t id = c.Generate(NewRequest(Prompt(3), 5));
  c.Pass(absl::Seconds(6));
  EXPECT_EQ(c.closed.at(2).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(c.workers.contains(1));
  c.RunUntilQuiet();
  EXPECT_EQ(c.seen[id].tokens, FakeWorker::Answer(Prompt(3), 0, 5));
}

TEST_F(RouterCoreTest, AWorkerThatNeverComesBackFromAStepIsGivenUpAtTheNextEpoch) {
  RouterOptions options = TwoWorkers();
  options.step_timeout = absl::Seconds(5);
  Cluster c(options);
  for (int i = 0; i < 3; ++i) c.Attach();
  c.RunUntilQuiet();
  const uint64_t id = c.Generate(NewRequest(Prompt(3), 50));
  for (int i = 0; i < 5; ++i) c.Round();
  c.stuck = 2;
  c.Break(3);
  c.Pass(absl::Seconds(6));
  EXPECT_EQ(c.closed.at(2).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(c.seen[id].tokens, FakeWorker::Answer(Prompt(3), 0, 50));
}

TEST_F(RouterCoreTest, ACancelledSequenceGivesItsMemoryBackAndIsReleasedByItsOwner) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(30), 1000));
  for (int i = 0; i < 6; ++i) cluster.Round();
  EXPECT_GT(cluster.Status().kv_blocks_used(), 0u);
  cluster.Cancel(id);
  EXPECT_EQ(cluster.Status().kv_blocks_used(), 0u);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.workers[1]->sequences() + cluster.workers[2]->sequences(), 0);
  EXPECT_FALSE(cluster.seen[id].finished);
}

TEST_F(RouterCoreTest, AFinishedSequenceLeavesNothingBehind) {
  Start();
  cluster.Generate(NewRequest(Prompt(30), 5));
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.Status().kv_blocks_used(), 0u);
  EXPECT_EQ(cluster.workers[1]->sequences() + cluster.workers[2]->sequences(), 0);
  EXPECT_TRUE(cluster.core.idle());
}

TEST_F(RouterCoreTest, RefusesBeyondTheQueueWithAHint) {
  Start();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 8 + 4 + 1; ++i) ids.push_back(cluster.Generate(NewRequest(Prompt(3), 5)));
  cluster.Round();
  EXPECT_EQ(cluster.seen[ids.back()].end->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(cluster.seen[ids.back()].retry_after, absl::ZeroDuration());
  EXPECT_EQ(cluster.seen[ids.back()].accepted, 0);
  cluster.RunUntilQuiet();
  ids.pop_back();
  for (uint64_t id : ids) ExpectAnswer(id, Prompt(3), 5);
}

TEST_F(RouterCoreTest, TheHeadOfTheQueueIsNeverOvertaken) {
  Cluster c({.workers = 1, .step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8, .queue_max = 4});
  c.Attach(10);
  c.RunUntilQuiet();
  const uint64_t first = c.Generate(NewRequest(Prompt(16), 96));  // 7 of 10 blocks
  const uint64_t second = c.Generate(NewRequest(Prompt(16), 96));
  const uint64_t third = c.Generate(NewRequest(Prompt(1), 1));  // would fit
  c.Round();
  EXPECT_EQ(c.Status().sequences_waiting(), 2u);
  c.Cancel(first);
  c.Round();
  EXPECT_EQ(c.seen[second].accepted + c.seen[third].accepted, 2);
}

// Nobody that is left could hold it: it waits for one that can, and others pass.
TEST_F(RouterCoreTest, WhatNoSurvivorHasMemoryForWaitsForOneThatHas) {
  cluster.Attach(100);
  cluster.Attach(10);
  cluster.RunUntilQuiet();
  const uint64_t large = cluster.Generate(NewRequest(Prompt(16), 300));
  for (int i = 0; i < 5; ++i) cluster.Round();
  cluster.Break(1);
  const uint64_t small = cluster.Generate(NewRequest(Prompt(6), 30));
  cluster.RunUntilQuiet();
  ExpectAnswer(small, Prompt(6), 30);
  EXPECT_FALSE(cluster.seen[large].end);
  cluster.Attach(100);
  cluster.RunUntilQuiet();
  ExpectAnswer(large, Prompt(16), 300);
}

TEST_F(RouterCoreTest, RequestsWaitForAGroupThatIsExpectedBack) {
  Start();
  cluster.Break(1);
  cluster.Break(2);
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 5));
  cluster.RunUntilQuiet();
  EXPECT_FALSE(cluster.seen[id].end);
  cluster.Attach();
  cluster.RunUntilQuiet();
  ExpectAnswer(id, Prompt(3), 5);
  cluster.Break(3);
  cluster.Pass(RouterCore::kRecoveryPatience + absl::Seconds(1));
  EXPECT_EQ(EndOf(NewRequest(Prompt(3), 5)), absl::StatusCode::kUnavailable) << "not for ever";
}

TEST_F(RouterCoreTest, SaysWhenTheNextLossWouldHurt) {
  Start();
  EXPECT_EQ(cluster.core.Unprotected(), "");
  cluster.Break(1);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.core.Unprotected(), "group 0 has one worker");
  EXPECT_EQ(cluster.core.NotReady(), "");
}

TEST_F(RouterCoreTest, SaysWhenAnExpertCouldNotBeRestored) {
  for (int i = 0; i < 2; ++i) cluster.Attach(1000, [](v1::Hello& hello) { hello.set_expert_slots(3); });
  cluster.RunUntilQuiet();
  EXPECT_THAT(cluster.core.Unprotected(), HasSubstr("memory for 3 of 4 experts"));
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 50));
  for (int i = 0; i < 5; ++i) cluster.Round();
  cluster.Break(2);
  cluster.Pass(RouterCore::kRecoveryPatience + absl::Seconds(1));
  EXPECT_THAT(cluster.core.NotReady(), HasSubstr("memory for 3 of 4 experts"));
  EXPECT_FALSE(cluster.seen[id].end) << "it waits";
  cluster.Attach();
  cluster.RunUntilQuiet();
  ExpectAnswer(id, Prompt(3), 50);
}

TEST_F(RouterCoreTest, AWorkerThatAnEpochHasNoMemoryForStandsBy) {
  for (int i = 0; i < 3; ++i) cluster.Attach(1000, [](v1::Hello& hello) { hello.set_ranks_max(2); });
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.core.NotReady(), "");
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 50));
  for (int i = 0; i < 5; ++i) cluster.Round();
  const auto in_epoch = [this](int index) { return cluster.Status().workers(index).in_epoch(); };
  EXPECT_TRUE(in_epoch(0) && in_epoch(1) && !in_epoch(2));
  cluster.Break(1);
  cluster.RunUntilQuiet();
  EXPECT_TRUE(in_epoch(0) && in_epoch(1)) << "the second and the third";
  ExpectAnswer(id, Prompt(3), 50);
}

class TwoGroups : public RouterCoreTest {
 protected:
  TwoGroups() {
    RouterOptions options = TwoWorkers();
    options.groups = 2;
    cluster_.emplace(options);
    for (int i = 0; i < 4; ++i) cluster_->Attach();
    cluster_->RunUntilQuiet();
  }
  std::string GroupOf(uint32_t worker) {
    const v1::GetStatusResponse status = cluster_->Status();
    for (const v1::WorkerInfo& info : status.workers()) {
      if (info.worker_id() == worker) return info.group();
    }
    return "";
  }
  std::optional<Cluster> cluster_;
};

TEST_F(TwoGroups, FillWithWorkersOneAfterTheOther) {
  EXPECT_EQ(GroupOf(1) + GroupOf(2) + GroupOf(3) + GroupOf(4), "0011");
  EXPECT_EQ(cluster_->Status().groups_ready(), 2u);
}

// Workers of hosts "a" and "b", which come in some order.
class HostsTest : public ::testing::Test {
 protected:
  // The groups of workers that come one after the other: "abba" to "0110".
  std::string GroupsOf(std::string_view hosts, int groups, int workers = 2) {
    RouterOptions options = TwoWorkers();
    options.groups = groups;
    options.workers = workers;
    cluster.emplace(options);
    for (char host : hosts) {
      cluster->Attach(1000, [host](v1::Hello& hello) { hello.set_host(std::string(1, host)); });
    }
    cluster->RunUntilQuiet();
    return Groups();
  }
  std::string Groups() {
    std::string groups;
    const v1::GetStatusResponse status = cluster->Status();
    for (const v1::WorkerInfo& info : status.workers()) groups += info.group();
    return groups;
  }
  std::optional<Cluster> cluster;
};

TEST_F(HostsTest, AreGroupsByDefault) {
  EXPECT_EQ(GroupsOf("abba", 0), "0110");
  EXPECT_EQ(cluster->Status().groups_ready(), 2u);
  EXPECT_EQ(GroupsOf("aaaabc", 0, 1), "000012");
  EXPECT_EQ(cluster->Status().groups_ready(), 3u);
}

TEST_F(HostsTest, KeepTheirGroupAsLongAsOneIsLeft) {
  GroupsOf("ab", 0, 1);
  cluster->Break(1);
  cluster->Attach(1000, [](v1::Hello& hello) { hello.set_host("b"); });
  cluster->Attach(1000, [](v1::Hello& hello) { hello.set_host("c"); });
  cluster->RunUntilQuiet();
  EXPECT_EQ(Groups(), "110");
}

TEST_F(HostsTest, AreNotMixedWhereGroupsAreCounted) {
  EXPECT_EQ(GroupsOf("abba", 2), "0110");
  EXPECT_EQ(GroupsOf("aabb", 2), "0011");
  EXPECT_EQ(GroupsOf("abab", 2), "0101");
}

TEST_F(HostsTest, AreMixedBeforeAGroupCannotBegin) {
  EXPECT_EQ(GroupsOf("abcd", 2), "0101");
  EXPECT_EQ(cluster->Status().groups_ready(), 2u);
  EXPECT_EQ(GroupsOf("ab", 1), "00");
  EXPECT_EQ(cluster->Status().groups_ready(), 1u);
  EXPECT_EQ(GroupsOf("aabbbb", 2), "001111") << "those beyond what groups begin with stay at home";
}

TEST_F(HostsTest, TooSmallToBeginSayWhy) {
  GroupsOf("ab", 0);
  EXPECT_EQ(cluster->Status().detail(),
            "group 0: waiting for 1 of 2 workers; group 1: waiting for 1 of 2 workers; the GPUs of each host are a "
            "group, unless --groups or --group say otherwise");
}

TEST_F(TwoGroups, ShareTheRequests) {
  for (int i = 0; i < 4; ++i) cluster_->Generate(NewRequest(Prompt(20, i), 50));
  for (int i = 0; i < 5; ++i) cluster_->Round();
  for (auto& [id, worker] : cluster_->workers) EXPECT_EQ(worker->sequences(), 1);
}

TEST_F(RouterCoreTest, APromptThatComesAgainIsNotComputedAgain) {
  Start();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(cluster.Generate(NewRequest(Prompt(100), 20)));
    cluster.RunUntilQuiet();
  }
  for (uint64_t id : ids) ExpectAnswer(id, Prompt(100), 20);
  EXPECT_EQ(cluster.seen[ids[0]].cached_tokens, 0u);
  EXPECT_EQ(cluster.seen[ids[1]].cached_tokens, 96u);
  EXPECT_EQ(cluster.seen[ids[2]].cached_tokens, 96u);
  EXPECT_EQ(cluster.Status().kv_blocks_used(), 0u);
}

TEST_F(RouterCoreTest, TheNextTurnOfAConversationGoesOnBehindTheAnswer) {
  Start();
  std::vector<TokenId> prompt = Prompt(50);
  cluster.Generate(NewRequest(prompt, 40));
  cluster.RunUntilQuiet();
  for (TokenId token : FakeWorker::Answer(prompt, 0, 40)) prompt.push_back(token);
  for (TokenId token : Prompt(10, 3)) prompt.push_back(token);
  const uint64_t next = cluster.Generate(NewRequest(prompt, 10));
  cluster.RunUntilQuiet();
  ExpectAnswer(next, prompt, 10);
  EXPECT_EQ(cluster.seen[next].cached_tokens, 80u);
}

TEST_F(RouterCoreTest, NothingIsSharedBetweenScopes) {
  Start();
  for (const char* scope : {"a", "b", "a"}) {
    v1::GenerateSequenceRequest request = NewRequest(Prompt(100), 20);
    request.set_cache_scope(scope);
    cluster.Generate(request);
    cluster.RunUntilQuiet();
  }
  EXPECT_EQ(cluster.seen[1].cached_tokens, 0u);
  EXPECT_EQ(cluster.seen[2].cached_tokens, 0u);
  EXPECT_EQ(cluster.seen[3].cached_tokens, 96u);
}

TEST_F(RouterCoreTest, TheCacheIsRoomForWhoeverNeedsIt) {
  for (int i = 0; i < 2; ++i) cluster.Attach(100);  // each has room for 1,600 tokens, kept and running
  cluster.RunUntilQuiet();
  for (int i = 0; i < 20; ++i) {
    const uint64_t id = cluster.Generate(NewRequest(Prompt(600, i), 150));
    cluster.RunUntilQuiet();
    ExpectAnswer(id, Prompt(600, i), 150);
  }
  uint64_t held = 0, cached = 0;
  for (const auto& [id, worker] : cluster.workers) held += worker->blocks();
  const v1::GetStatusResponse status = cluster.Status();
  for (const v1::WorkerInfo& info : status.workers()) cached += info.kv_blocks_cached();
  EXPECT_EQ(held, cached);
  EXPECT_GT(cached, 0u);
}

TEST_F(RouterCoreTest, WhatALostWorkerKnewIsForgottenAndWhatASurvivorKnowsIsNot) {
  Start();
  for (int i = 0; i < 4; ++i) cluster.Generate(NewRequest(Prompt(100, 10 * i), 5));
  cluster.RunUntilQuiet();
  EXPECT_GT(cluster.workers[1]->snapshots(), 0);
  EXPECT_GT(cluster.workers[2]->snapshots(), 0);
  const int kept = cluster.workers[1]->snapshots();
  cluster.Break(2);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.workers[1]->snapshots(), kept);
  int hits = 0;
  for (int i = 0; i < 4; ++i) {
    const uint64_t id = cluster.Generate(NewRequest(Prompt(100, 10 * i), 5));
    cluster.RunUntilQuiet();
    ExpectAnswer(id, Prompt(100, 10 * i), 5);
    hits += cluster.seen[id].cached_tokens > 0 ? 1 : 0;
  }
  EXPECT_EQ(hits, 2);
}

TEST_F(TwoGroups, PromptsThatBeginAlikeGoToTheSameGroup) {
  cluster_->Generate(NewRequest(Prompt(40), 1));
  cluster_->RunUntilQuiet();
  for (int i = 0; i < 4; ++i) cluster_->Generate(NewRequest(Prompt(40 + i), 50));
  for (int i = 0; i < 5; ++i) cluster_->Round();
  EXPECT_EQ(cluster_->workers[1]->sequences() + cluster_->workers[2]->sequences(), 4);
}

TEST_F(TwoGroups, ButNotWhileTheOtherIsIdle) {
  cluster_->Generate(NewRequest(Prompt(40), 1));
  cluster_->RunUntilQuiet();
  for (int i = 0; i < 8; ++i) cluster_->Generate(NewRequest(Prompt(40 + i), 50));
  for (int i = 0; i < 5; ++i) cluster_->Round();
  EXPECT_EQ(cluster_->workers[1]->sequences() + cluster_->workers[2]->sequences(), 5);
  EXPECT_EQ(cluster_->workers[3]->sequences() + cluster_->workers[4]->sequences(), 3);
}

TEST_F(TwoGroups, AGroupThatDiesGivesItsSequencesToTheOther) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(cluster_->Generate(NewRequest(Prompt(20, i), 50)));
  for (int i = 0; i < 5; ++i) cluster_->Round();
  cluster_->Break(1);
  cluster_->Break(2);
  cluster_->RunUntilQuiet();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(cluster_->seen[ids[static_cast<size_t>(i)]].tokens, FakeWorker::Answer(Prompt(20, i), 0, 50));
  }
  EXPECT_EQ(cluster_->core.Unprotected(), "");
}

TEST_F(RouterCoreTest, AGroupComesWithItsWorkersAndGoesWithThem) {
  Start();
  auto rack = [](v1::Hello& hello) { hello.set_group("rack-b"); };
  const uint32_t first = cluster.Attach(1000, rack), second = cluster.Attach(1000, rack);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.Status().groups_ready(), 2u);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(cluster.Generate(NewRequest(Prompt(20, i), 300)));
  for (int i = 0; i < 5; ++i) cluster.Round();
  EXPECT_GT(cluster.workers[first]->sequences() + cluster.workers[second]->sequences(), 0);
  v1::AttachRequest leaving;
  leaving.mutable_leaving();
  for (uint32_t worker : {first, second}) cluster.Say(worker, leaving);
  cluster.Pass(Membership::kLeavePatience + absl::Seconds(2));
  EXPECT_TRUE(cluster.closed.at(first).ok() && cluster.closed.at(second).ok());
  EXPECT_EQ(cluster.Status().groups_ready(), 1u);
  for (int i = 0; i < 4; ++i) ExpectAnswer(ids[static_cast<size_t>(i)], Prompt(20, i), 300);
  // Nothing is left of it but its name in memories of prompts.
  cluster.Pass(RouterCore::kRecoveryPatience + absl::Seconds(1));
  const uint64_t later = cluster.Generate(NewRequest(Prompt(20, 1), 5));
  cluster.RunUntilQuiet();
  ExpectAnswer(later, Prompt(20, 1), 5);
}

TEST_F(RouterCoreTest, RefusesWhileNoGroupIsReady) {
  cluster.Attach();
  cluster.RunUntilQuiet();
  EXPECT_EQ(EndOf(NewRequest(Prompt(3), 5)), absl::StatusCode::kUnavailable);
  EXPECT_GT(cluster.seen[1].retry_after, absl::ZeroDuration());
  EXPECT_EQ(cluster.Status().state(), v1::GetStatusResponse::STATE_LOADING);
  EXPECT_EQ(cluster.Status().detail(), "waiting for 1 of 2 workers");
}

TEST_F(RouterCoreTest, RefusesWhatCanNeverBeServedAndNamesTheField) {
  Start();
  auto expect_invalid = [this](const char* field, const std::function<void(v1::GenerateSequenceRequest&)>& spoil) {
    v1::GenerateSequenceRequest request = NewRequest(Prompt(3), 5);
    spoil(request);
    const uint64_t id = cluster.Generate(request);
    cluster.RunUntilQuiet();
    EXPECT_EQ(cluster.seen[id].accepted, 0) << field;
    ASSERT_TRUE(cluster.seen[id].end) << field;
    EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(StdView(cluster.seen[id].end->message())), HasSubstr(field));
  };
  expect_invalid("prompt is empty", [](auto& r) { r.clear_prompt(); });
  expect_invalid("prompt[1]", [](auto& r) { r.set_prompt(1, 1000); });
  expect_invalid("prompt[1]", [](auto& r) { r.set_prompt(1, -1); });
  expect_invalid("generated[0]", [](auto& r) { r.add_generated(1000); });
  expect_invalid("max_new_tokens", [](auto& r) { r.set_max_new_tokens(0); });
  expect_invalid("max_new_tokens", [](auto& r) { r.set_max_new_tokens(4094); });
  expect_invalid("max_new_tokens", [](auto& r) { r.set_max_new_tokens(~0u); });
  expect_invalid("generated has", [](auto& r) { r.mutable_generated()->Resize(6, 1); });
  expect_invalid("stop token", [](auto& r) { r.mutable_generated()->Resize(3, 1), r.add_stop_tokens(1); });
  expect_invalid("request_id", [](auto& r) { r.set_request_id(std::string(129, 'x')); });
  expect_invalid("stop_tokens", [](auto& r) { r.add_stop_tokens(5000); });
  expect_invalid("top_logprobs", [](auto& r) { r.set_top_logprobs(21), r.set_want_logprobs(true); });
  expect_invalid("top_logprobs", [](auto& r) { r.set_top_logprobs(1); });
  expect_invalid("temperature", [](auto& r) { r.mutable_sampling()->set_temperature(NAN); });
  expect_invalid("top_p", [](auto& r) { r.mutable_sampling()->set_top_p(0); });
  expect_invalid("min_p", [](auto& r) { r.mutable_sampling()->set_min_p(1.5f); });
  expect_invalid("logit_bias", [](auto& r) { r.mutable_sampling()->add_logit_bias()->set_token(-5); });
  EXPECT_EQ(EndOf(NewRequest(Prompt(3), 4093)), absl::StatusCode::kOk) << "exactly the context";
}

TEST_F(RouterCoreTest, RefusesWhatNoWorkerHasMemoryFor) {
  cluster.Attach(10);
  cluster.Attach(20);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.Status().context_tokens_max(), 320u);
  EXPECT_EQ(EndOf(NewRequest(Prompt(300), 21)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EndOf(NewRequest(Prompt(300), 20)), absl::StatusCode::kOk);
}

TEST_F(RouterCoreTest, DeliversPromptLogprobsOnceAndBeforeTheTokens) {
  Start();
  v1::GenerateSequenceRequest request = NewRequest(Prompt(50), 5);
  request.set_want_prompt_logprobs(true);
  const uint64_t id = cluster.Generate(request);
  for (int i = 0; i < 3; ++i) cluster.Round();
  cluster.Break(1);  // in the middle of the prompt: the second epoch scores it from its beginning
  cluster.Attach();
  cluster.RunUntilQuiet();
  std::vector<TokenId> expected = Prompt(50);
  expected.erase(expected.begin());
  EXPECT_EQ(cluster.seen[id].scored, expected);
  ExpectAnswer(id, Prompt(50), 5);
}

// One worker that breaks the protocol loses its stream, and nothing else happens but a pause.
TEST_F(RouterCoreTest, HostileWorkersAreSentAway) {
  const std::map<std::string, std::function<void(v1::StepDone&)>> spoils = {
      {"another step", [](v1::StepDone& d) { d.set_step(99); }},
      {"no result", [](v1::StepDone& d) { d.clear_sampled(); }},
      {"a result too many", [](v1::StepDone& d) { *d.add_sampled() = d.sampled(0); }},
      {"another sequence", [](v1::StepDone& d) { d.mutable_sampled(0)->set_sequence(77); }},
      {"no such token", [](v1::StepDone& d) { d.mutable_sampled(0)->mutable_token()->set_token(1000); }},
      {"negative token", [](v1::StepDone& d) { d.mutable_sampled(0)->mutable_token()->set_token(-1); }},
      {"not a number", [](v1::StepDone& d) { d.mutable_sampled(0)->mutable_token()->set_logprob(NAN); }},
      {"experts", [](v1::StepDone& d) { d.mutable_expert_rows()->Resize(5, 1); }},
      {"a token behind no draft", [](v1::StepDone& d) { d.mutable_sampled(0)->add_more(); }},
      {"scores", [](v1::StepDone& d) { d.add_prompt_scores()->set_sequence(1); }},
      {"scores of nobody", [](v1::StepDone& d) { d.add_prompt_scores()->set_sequence(12345); }},
      {"scores far away", [](v1::StepDone& d) { d.add_prompt_scores()->set_position(~0u); }},
  };
  for (const auto& [what, spoil] : spoils) {
    Cluster c({.workers = 1, .step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8, .queue_max = 4});
    c.Attach();
    c.RunUntilQuiet();
    c.hung = {1};
    const uint64_t id = c.Generate(NewRequest(Prompt(3), 4));
    c.RunUntilQuiet();
    v1::AttachRequest message;
    v1::StepDone* done = message.mutable_step_done();
    done->set_epoch(c.Status().epoch());
    done->set_step(1);
    done->add_sampled()->set_sequence(id);
    spoil(*done);
    c.Say(1, message);
    c.RunUntilQuiet();
    ASSERT_TRUE(c.closed.contains(1)) << what;
    EXPECT_EQ(c.closed.at(1).code(), absl::StatusCode::kInvalidArgument) << what;
    c.Attach();
    c.RunUntilQuiet();
    EXPECT_EQ(c.seen[id].tokens, FakeWorker::Answer(Prompt(3), 0, 4)) << what;
  }
}

TEST_F(RouterCoreTest, WorkersThatTakeWrongDraftsAreSentAway) {
  const std::map<std::string, std::function<void(v1::Sampled*, TokenId first)>> spoils = {
      {"a wrong draft", [](v1::Sampled* s, TokenId first) { s->mutable_token()->set_token((first + 1) % 1000); }},
      {"more tokens than drafts",
       [](v1::Sampled* s, TokenId) {
         s->mutable_more()->Reserve(9);
         while (s->more_size() < 9) s->add_more();
       }},
      {"no such token", [](v1::Sampled* s, TokenId) { s->mutable_more(0)->set_token(1000); }},
      {"an error and tokens", [](v1::Sampled* s, TokenId) { s->set_error("?"); }},
  };
  for (const auto& [what, spoil] : spoils) {
    Cluster c({.workers = 1, .step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8, .queue_max = 4});
    c.Attach();
    c.RunUntilQuiet();
    v1::GenerateSequenceRequest request = NewRequest({1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, 400);
    request.mutable_sampling()->set_seed(FakeWorker::kParrot);
    const uint64_t id = c.Generate(request);
    c.spoil_drafts = [&](v1::Sampled* sampled, TokenId first) { spoil(sampled, first); };
    c.RunUntilQuiet();
    ASSERT_TRUE(c.closed.contains(1)) << what;
    EXPECT_EQ(c.closed.at(1).code(), absl::StatusCode::kInvalidArgument) << what;
    c.spoil_drafts = {};
    c.Attach();
    c.RunUntilQuiet();
    EXPECT_EQ(c.seen[id].tokens, FakeWorker::Answer({1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, FakeWorker::kParrot, 400)) << what;
  }
}

TEST_F(RouterCoreTest, DraftsChangeNothingButTheNumberOfSteps) {
  const std::vector<TokenId> prompt = {9, 1, 2, 3, 4, 5, 6, 7, 8};
  const auto run = [&](int drafts_max, std::function<void(v1::GenerateSequenceRequest&)> change) {
    RouterOptions options{.workers = 2, .step_tokens = 64, .chunk_tokens = 16};
    options.draft_tokens_max = drafts_max;
    Cluster c(options);
    c.Attach();
    c.Attach();
    c.RunUntilQuiet();
    v1::GenerateSequenceRequest request = NewRequest(prompt, 300);
    request.mutable_sampling()->set_seed(FakeWorker::kParrot);
    change(request);
    const uint64_t id = c.Generate(request);
    int rounds = 0;
    while (c.Round()) ++rounds;
    EXPECT_THAT(c.Complaints(), IsEmpty());
    EXPECT_THAT(c.closed, IsEmpty());
    EXPECT_TRUE(c.seen[id].finished.has_value());
    return std::tuple(c.seen[id].tokens, *c.seen[id].finished, rounds);
  };
  const std::vector<TokenId> answer = FakeWorker::Answer(prompt, FakeWorker::kParrot, 300);
  const auto [plain, plain_reason, plain_rounds] = run(0, [](auto&) {});
  EXPECT_EQ(plain, answer);
  const auto [tokens, reason, rounds] = run(8, [](auto&) {});
  EXPECT_EQ(tokens, answer);
  EXPECT_EQ(reason, plain_reason);
  EXPECT_LT(rounds * 2, plain_rounds);
  for (int length = 1; length < 60; ++length) {
    EXPECT_EQ(std::get<0>(run(8, [&](auto& request) { request.set_max_new_tokens(length); })),
              std::vector<TokenId>(answer.begin(), answer.begin() + length));
  }
  for (const TokenId stop : {3, 6, 9}) {
    for (int begun = 0; begun < 30; begun += 7) {
      // The stop token comes again and again; the answer ends at the first one behind `begun` tokens.
      const auto last = std::find(answer.begin() + begun, answer.end(), stop);
      if (std::find(answer.begin(), answer.begin() + begun, stop) != answer.begin() + begun) continue;
      const auto stopped = run(8, [&](auto& request) {
        request.add_stop_tokens(stop);
        for (int i = 0; i < begun; ++i) request.add_generated(answer[i]);
      });
      EXPECT_EQ(std::get<0>(stopped), std::vector<TokenId>(answer.begin() + begun, last + 1));
      EXPECT_EQ(std::get<1>(stopped), v1::SequenceFinished::REASON_STOP);
    }
  }
}

TEST_F(RouterCoreTest, TheFirstMessageMustBeHello) {
  cluster.core.OnWorkerOpened(WorkerId(50), cluster.now);
  for (int kind = 0; kind < 2; ++kind) {
    v1::AttachRequest message;
    if (kind == 1) message.mutable_prepared();
    cluster.Say(50, message);
  }
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.closed.at(50).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RouterCoreTest, ReportsOfAnOlderEpochAreIgnored) {
  Start();
  v1::AttachRequest message;
  message.mutable_step_done()->set_epoch(cluster.Status().epoch() - 1);
  cluster.Say(1, message);
  cluster.RunUntilQuiet();
  EXPECT_THAT(cluster.closed, IsEmpty());
}

TEST_F(RouterCoreTest, ASequenceThatTheModelCannotGoOnWithFailsAlone) {
  Cluster c({.workers = 1, .step_tokens = 64, .chunk_tokens = 16, .sequences_max = 8, .queue_max = 4});
  c.Attach();
  c.RunUntilQuiet();
  c.hung = {1};
  const uint64_t bad = c.Generate(NewRequest(Prompt(3), 4));
  const uint64_t good = c.Generate(NewRequest(Prompt(4), 4));
  c.RunUntilQuiet();
  v1::AttachRequest message;
  v1::StepDone* done = message.mutable_step_done();
  done->set_epoch(c.Status().epoch());
  done->set_step(1);
  v1::Sampled* failed = done->add_sampled();
  failed->set_sequence(bad);
  failed->set_error("logits are not finite");
  failed->mutable_token()->set_token(-1);
  v1::Sampled* sound = done->add_sampled();
  sound->set_sequence(good);
  sound->mutable_token()->set_token(FakeWorker::Answer(Prompt(4), 0, 1)[0]);
  c.hung = {};
  c.Say(1, message);
  c.RunUntilQuiet();
  EXPECT_EQ(c.seen[bad].end->code(), absl::StatusCode::kInternal);
  EXPECT_THAT(c.seen[bad].tokens, IsEmpty());
  EXPECT_EQ(c.seen[good].tokens, FakeWorker::Answer(Prompt(4), 0, 4));
}

TEST_F(RouterCoreTest, WorkersWithAnotherModelEndWhatTheOldOnesBegan) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 50));
  for (int i = 0; i < 4; ++i) cluster.Round();
  cluster.Break(1);
  cluster.Break(2);
  cluster.Round();
  for (int i = 0; i < 2; ++i) cluster.Attach(1000, [](v1::Hello& hello) { hello.set_model_digest("new"); });
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cluster.Status().model_digest(), "new");
}

TEST_F(RouterCoreTest, WorkersThatRoundOtherwiseEndWhatTheOldOnesBegan) {
  Start();
  EXPECT_EQ(cluster.Status().arithmetic(), "fake");
  EXPECT_EQ(cluster.Status().kv_type(), "bf16");
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 50));
  for (int i = 0; i < 4; ++i) cluster.Round();
  cluster.Break(1);
  cluster.Break(2);
  cluster.Round();
  for (int i = 0; i < 2; ++i) cluster.Attach(1000, [](v1::Hello& hello) { hello.set_arithmetic("cuda bf16 exact"); });
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cluster.Status().arithmetic(), "cuda bf16 exact");
}

TEST_F(RouterCoreTest, DrainingFinishesWhatWasAcceptedAndRefusesTheRest) {
  Start();
  std::vector<uint64_t> running, waiting;
  for (int i = 0; i < 8; ++i) running.push_back(cluster.Generate(NewRequest(Prompt(3), 20)));
  cluster.Round();
  for (int i = 0; i < 2; ++i) waiting.push_back(cluster.Generate(NewRequest(Prompt(3), 20)));
  cluster.core.Drain();
  EXPECT_EQ(cluster.core.NotReady(), "draining");
  EXPECT_EQ(EndOf(NewRequest(Prompt(3), 5)), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(cluster.core.idle());
  for (uint64_t id : running) ExpectAnswer(id, Prompt(3), 20);
  for (uint64_t id : waiting) EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kUnavailable);
}

TEST_F(RouterCoreTest, StoppingEndsEverythingWithItsReason) {
  Start();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(3), 20));
  cluster.Round();
  cluster.core.Stop(absl::UnavailableError("bye"), cluster.now);
  cluster.RunUntilQuiet();
  EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(cluster.closed.at(1).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(cluster.closed.at(2).code(), absl::StatusCode::kUnavailable);
}

TEST_F(RouterCoreTest, CountsWhatItDoes) {
  Start();
  cluster.Generate(NewRequest(Prompt(20), 100));
  cluster.RunUntilQuiet();
  const std::string text = cluster.metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("braid_router_sequences_finished_total{reason=\"length\"} 1"));
  EXPECT_THAT(text, HasSubstr("braid_router_step_rows_total{kind=\"prefill\"} 20"));
  EXPECT_THAT(text, HasSubstr("braid_router_step_rows_total{kind=\"decode\"} 99"));
  EXPECT_THAT(text, HasSubstr("braid_expert_imbalance_ratio 1.6"));  // rows 1:2:3:4
  EXPECT_THAT(text, HasSubstr("braid_kv_blocks 2000"));
}

// Two workers whose steps take 20 ms. The first few tell how long they take.
class StepsAheadTest : public RouterCoreTest {
 protected:
  void StartSlow() {
    Start();
    cluster.slow = true;
  }
  void RunStep() {
    cluster.Round();
    cluster.StepEnds(1, absl::Milliseconds(20));
    cluster.StepEnds(2, absl::ZeroDuration());
  }
  // Until a step is behind the one that runs.
  void RunUntilAhead() {
    for (int steps = 0;; ++steps) {
      ASSERT_LT(steps, 10);
      cluster.Round();
      const absl::Time end = cluster.now + absl::Milliseconds(20);
      cluster.now = std::clamp(cluster.core.WakeAt(), cluster.now, end);
      cluster.Round();
      if (cluster.steps_running(1) == 2) return;
      cluster.StepEnds(1, end - cluster.now);
      cluster.StepEnds(2, absl::ZeroDuration());
    }
  }
  void RunToTheEnd() {
    for (cluster.Round(); cluster.steps_running(1) + cluster.steps_running(2) > 0;) {
      if (cluster.steps_running(1) > 0) cluster.StepEnds(1, absl::Milliseconds(20));
      if (cluster.steps_running(2) > 0) cluster.StepEnds(2, absl::ZeroDuration());
    }
    cluster.RunUntilQuiet();
  }
  int ahead() const { return cluster.rows_ahead; }
};

TEST_F(StepsAheadTest, WorkersHaveTheNextPlanBeforeTheyNeedIt) {
  StartSlow();
  const uint64_t a = cluster.Generate(NewRequest(Prompt(10), 60));
  const uint64_t b = cluster.Generate(NewRequest(Prompt(7, 5), 60));
  for (int i = 0; i < 50; ++i) ASSERT_NO_FATAL_FAILURE(RunStep());
  EXPECT_GT(ahead(), 35);
  RunToTheEnd();
  ExpectAnswer(a, Prompt(10), 60);
  ExpectAnswer(b, Prompt(7, 5), 60);
}

TEST_F(StepsAheadTest, WhatComesBeforeItIsTimeIsInTheNextStep) {
  StartSlow();
  cluster.Generate(NewRequest(Prompt(10), 60));
  for (int i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(RunStep());
  while (cluster.steps_running(1) != 1) ASSERT_NO_FATAL_FAILURE(RunStep());
  const uint64_t id = cluster.Generate(NewRequest(Prompt(7, 5), 1));
  ASSERT_NO_FATAL_FAILURE(RunStep());
  ASSERT_NO_FATAL_FAILURE(RunStep());
  EXPECT_TRUE(cluster.seen[id].finished);
  RunToTheEnd();
}

TEST_F(StepsAheadTest, TheRouterIsWokenForItOnce) {
  StartSlow();
  cluster.Generate(NewRequest(Prompt(10), 60));
  for (int i = 0; i < 5; ++i) ASSERT_NO_FATAL_FAILURE(RunStep());
  while (cluster.core.WakeAt() == absl::InfiniteFuture()) ASSERT_NO_FATAL_FAILURE(RunStep());
  cluster.Attach();  // an epoch with it is ready before the step is done
  for (int round = 0; round < 20; ++round) cluster.Round();
  cluster.now = std::max(cluster.now, cluster.core.WakeAt());
  cluster.Round();
  EXPECT_EQ(cluster.core.WakeAt(), absl::InfiniteFuture());
  EXPECT_EQ(cluster.steps_running(1), 1) << "that epoch comes first";
  RunToTheEnd();
}

TEST_F(StepsAheadTest, OneWorkerMayBeAStepAheadOfAnother) {
  StartSlow();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(10), 60));
  ASSERT_NO_FATAL_FAILURE(RunUntilAhead());
  const size_t tokens = cluster.seen[id].tokens.size();
  cluster.StepEnds(1, absl::Milliseconds(1));
  cluster.StepEnds(1, absl::Milliseconds(20));
  EXPECT_EQ(cluster.seen[id].tokens.size(), tokens) << "nothing counts before all have said so";
  EXPECT_EQ(cluster.steps_running(1), 0);
  cluster.StepEnds(2, absl::ZeroDuration());
  EXPECT_EQ(cluster.seen[id].tokens.size(), tokens + 1);
  EXPECT_EQ(cluster.steps_running(2), 1);
  cluster.StepEnds(2, absl::ZeroDuration());
  EXPECT_EQ(cluster.seen[id].tokens.size(), tokens + 2);
  RunToTheEnd();
  ExpectAnswer(id, Prompt(10), 60);
}

TEST_F(StepsAheadTest, ALossVoidsBothSteps) {
  StartSlow();
  const uint64_t a = cluster.Generate(NewRequest(Prompt(10), 60));
  const uint64_t b = cluster.Generate(NewRequest(Prompt(7, 5), 60));
  for (const int done_by_one : {0, 1, 2}) {
    ASSERT_NO_FATAL_FAILURE(RunUntilAhead());
    const size_t tokens = cluster.seen[a].tokens.size() + cluster.seen[b].tokens.size();
    for (int i = 0; i < done_by_one; ++i) cluster.StepEnds(1, absl::Milliseconds(1));
    v1::AttachRequest fault;
    fault.mutable_fault()->set_epoch(cluster.Status().epoch());
    fault.mutable_fault()->set_step(1);
    cluster.Say(2, fault);
    cluster.ForgetRunning();
    EXPECT_EQ(cluster.seen[a].tokens.size() + cluster.seen[b].tokens.size(), tokens);
    cluster.Pass(absl::Seconds(1));
  }
  RunToTheEnd();
  ExpectAnswer(a, Prompt(10), 60);
  ExpectAnswer(b, Prompt(7, 5), 60);
}

TEST_F(StepsAheadTest, NothingIsSaidOfARowBehindAStopToken) {
  const std::vector<TokenId> answer = FakeWorker::Answer(Prompt(10), 0, 60);
  StartSlow();
  v1::GenerateSequenceRequest request = NewRequest(Prompt(10), 60);
  request.add_stop_tokens(answer[20]);
  const uint64_t id = cluster.Generate(request);
  const uint64_t other = cluster.Generate(NewRequest(Prompt(7, 5), 60));
  for (int i = 0; i < 30; ++i) ASSERT_NO_FATAL_FAILURE(RunStep());
  EXPECT_GT(ahead(), 15);
  RunToTheEnd();
  EXPECT_EQ(cluster.seen[id].finished, v1::SequenceFinished::REASON_STOP);
  EXPECT_EQ(cluster.seen[id].tokens.size(),
            static_cast<size_t>(std::find(answer.begin(), answer.end(), answer[20]) - answer.begin()) + 1);
  ExpectAnswer(other, Prompt(7, 5), 60);
  EXPECT_EQ(cluster.Status().kv_blocks_used(), 0u);
}

TEST_F(StepsAheadTest, ACancelledSequenceLeavesBothStepsToTheOthers) {
  StartSlow();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(10), 60));
  const uint64_t other = cluster.Generate(NewRequest(Prompt(7, 5), 60));
  ASSERT_NO_FATAL_FAILURE(RunUntilAhead());
  cluster.Cancel(id);
  RunToTheEnd();
  ExpectAnswer(other, Prompt(7, 5), 60);
  EXPECT_EQ(cluster.Status().kv_blocks_used(), 0u);
}

TEST_F(StepsAheadTest, ARowThatKillsInTheSecondStepIsFound) {
  StartSlow();
  const uint64_t id = cluster.Generate(NewRequest(Prompt(10), 60));
  ASSERT_NO_FATAL_FAILURE(RunUntilAhead());
  cluster.slow = false;
  cluster.poison_position = 10 + static_cast<uint32_t>(cluster.seen[id].tokens.size());
  cluster.Break(cluster.workers[1]->sequences() > 0 ? 1 : 2);
  cluster.ForgetRunning();
  cluster.Attach();
  EXPECT_EQ(CrashesUntilTheEndOf(id), 1) << "the first step, which is run again, does not clear it";
  EXPECT_EQ(cluster.seen[id].end->code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace braid
