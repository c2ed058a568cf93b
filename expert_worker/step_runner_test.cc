#include "expert_worker/step_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "expert_worker/late_engine.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/tiny_model.h"
#include "model/engine.h"

namespace braid {
namespace {

constexpr int kBlocks = 20;

v1::SequenceStart Start(uint64_t id, uint32_t prompt_tokens, uint32_t kv_blocks = 4) {
  v1::SequenceStart start;
  start.set_sequence(id);
  start.set_prompt_tokens(prompt_tokens);
  start.set_kv_blocks(kv_blocks);
  v1::SamplingParams* sampling = start.mutable_sampling();
  sampling->set_temperature(0.8f);
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1.1f);
  sampling->set_frequency_penalty(0.2f);
  sampling->set_seed(id);
  return start;
}

void AddChunk(v1::StepPlan* plan, uint64_t id, uint32_t position, const std::vector<TokenId>& tokens, bool sample) {
  v1::SequenceChunk* chunk = plan->add_chunks();
  chunk->set_sequence(id);
  plan->set_rows_max(plan->rows_max() + std::max<uint32_t>(1, tokens.size()));
  chunk->set_position(position);
  for (TokenId token : tokens) chunk->add_tokens(token);
  chunk->set_sample(sample);
}

std::vector<TokenId> Prompt(int n, int seed) {
  std::vector<TokenId> tokens(n);
  for (int i = 0; i < n; ++i) tokens[i] = (i * 17 + seed * 29 + i * i) % TinyWorkerModel::kNoToken;
  return tokens;
}

class StepRunnerTest : public testing::Test {
 protected:
  StepRunner::ForwardFn RealForward() {
    return [this](auto chunks, ExpertRunner& experts, auto* logits) { return engine_->Run(chunks, experts, logits); };
  }
  StepRunner MakeRunner(StepRunner::ForwardFn forward) {
    return StepRunner(&model_.config(), &states_, &pool_, std::move(forward),
                      {.step_tokens_max = 100, .masked = {TinyWorkerModel::kNoToken}});
  }
  absl::StatusOr<v1::StepDone> Run(const v1::StepPlan& plan) { return runner_.Run(plan, experts_); }
  absl::Status Refusal(const v1::StepPlan& plan) {
    const absl::Status status = Run(plan).status();
    runner_.Clear();
    EXPECT_EQ(runner_.sequences().blocks().used(), 0);
    return status;
  }

  // Prefills `prompt` in chunks of `chunk_tokens` and decodes `count` tokens. Keeps the StepDones.
  std::vector<TokenId> Generate(const v1::SequenceStart& start, const std::vector<TokenId>& prompt, int chunk_tokens,
                                int count, std::vector<v1::StepDone>* dones = nullptr) {
    std::vector<TokenId> answer;
    v1::StepPlan plan;
    *plan.add_start() = start;
    size_t position = 0;
    while (static_cast<int>(answer.size()) < count) {
      std::vector<TokenId> tokens;
      if (position < prompt.size()) {
        const size_t end = std::min(prompt.size(), position + chunk_tokens);
        tokens.assign(prompt.begin() + position, prompt.begin() + end);
      } else {
        tokens = {answer.back()};
      }
      const bool sample = position + tokens.size() >= prompt.size();
      AddChunk(&plan, start.sequence(), position, tokens, sample);
      auto done = Run(plan);
      EXPECT_TRUE(done.ok()) << done.status();
      if (!done.ok()) return answer;
      EXPECT_EQ(done->sampled_size(), sample);
      if (sample) answer.push_back(done->sampled(0).token().token());
      if (dones) dones->push_back(*done);
      position += tokens.size();
      plan.Clear();
    }
    plan.add_release(start.sequence());
    EXPECT_TRUE(Run(plan).ok());
    return answer;
  }

  const TinyWorkerModel model_;
  ThreadPool pool_{2};
  HostStates states_{model_.config(), {.blocks = kBlocks, .sequences = 3}};
  const std::unique_ptr<Engine> engine_ = MakeEngine(&model_.config(), &model_.tensors(), &states_, &pool_);
  LocalExperts experts_{model_.config().experts, &engine_->experts(), &pool_};
  StepRunner runner_ = MakeRunner(RealForward());
};

TEST_F(StepRunnerTest, TheAnswerDoesNotDependOnChunking) {
  const std::vector<TokenId> prompt = Prompt(70, 1);
  const std::vector<TokenId> expected = Generate(Start(1, 70), prompt, 70, 20);
  for (int chunk : {1, 7, 32, 69}) EXPECT_EQ(Generate(Start(1, 70), prompt, chunk, 20), expected) << chunk;
  EXPECT_EQ(runner_.sequences().blocks().used(), 0);
}

TEST_F(StepRunnerTest, AResubmittedSequenceGoesOnWithTheSameTokens) {
  const std::vector<TokenId> prompt = Prompt(20, 2);
  const std::vector<TokenId> expected = Generate(Start(1, 20), prompt, 20, 30);
  std::vector<TokenId> replay = prompt;
  replay.insert(replay.end(), expected.begin(), expected.begin() + 11);
  const std::vector<TokenId> rest = Generate(Start(1, 20), replay, 9, 19);
  EXPECT_EQ(rest, std::vector<TokenId>(expected.begin() + 11, expected.end()));
}

TEST_F(StepRunnerTest, TheAnswerDoesNotDependOnTheBatch) {
  const std::vector<TokenId> alone = Generate(Start(1, 33), Prompt(33, 3), 33, 5);
  v1::StepPlan plan;
  *plan.add_start() = Start(7, 5);
  *plan.add_start() = Start(1, 33);
  AddChunk(&plan, 7, 0, Prompt(5, 9), true);
  AddChunk(&plan, 1, 0, Prompt(33, 3), true);
  for (int i = 0; i < 5; ++i) {
    auto done = Run(plan);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->sampled_size(), 2);
    EXPECT_EQ(done->sampled(0).sequence(), 7u);
    EXPECT_EQ(done->sampled(1).token().token(), alone[i]);
    plan.Clear();
    AddChunk(&plan, 7, 5 + i, {done->sampled(0).token().token()}, true);
    AddChunk(&plan, 1, 33 + i, {done->sampled(1).token().token()}, true);
  }
}

// What comes out of drafts, right and wrong ones, is what one token after the other gives, scores and all.
TEST_F(StepRunnerTest, TheAnswerDoesNotDependOnDrafts) {
  constexpr int kAnswer = 40;
  v1::SequenceStart start = Start(1, 20);
  start.set_want_logprobs(true);
  start.set_top_logprobs(2);
  const std::vector<TokenId> prompt = Prompt(20, 6);
  std::vector<v1::StepDone> dones;
  std::vector<TokenId> log = prompt;
  for (const TokenId token : Generate(start, prompt, 20, kAnswer, &dones)) log.push_back(token);
  std::vector<std::string> expected;
  for (const v1::StepDone& done : dones) expected.push_back(done.sampled(0).token().SerializeAsString());

  std::mt19937 rng(7);
  for (int round = 0; round < 10; ++round) {
    std::vector<std::string> answer;
    v1::StepPlan plan;
    *plan.add_start() = start;
    AddChunk(&plan, 1, 0, prompt, true);
    while (static_cast<int>(answer.size()) < kAnswer) {
      const auto done = Run(plan);
      ASSERT_TRUE(done.ok()) << done.status();
      answer.push_back(done->sampled(0).token().SerializeAsString());
      for (const v1::TokenLogprob& more : done->sampled(0).more()) answer.push_back(more.SerializeAsString());
      const size_t position = prompt.size() + answer.size() - 1;
      ASSERT_TRUE(std::equal(answer.begin(), answer.end(), expected.begin())) << position;
      if (position + 1 == log.size()) break;
      const size_t rows = std::min<size_t>(log.size() - position - 1, 1 + rng() % 9);
      std::vector<TokenId> tokens(log.begin() + position, log.begin() + position + rows);
      const uint32_t drafts = static_cast<uint32_t>(tokens.size()) - 1;
      const size_t wrong = 1 + rng() % 12;
      if (wrong < tokens.size()) tokens[wrong] = (tokens[wrong] + 1) % TinyWorkerModel::kNoToken;
      plan.Clear();
      AddChunk(&plan, 1, static_cast<uint32_t>(position), tokens, true);
      plan.mutable_chunks(0)->set_drafts(drafts);
    }
    runner_.Clear();
  }
}

TEST_F(StepRunnerTest, TokensBeforeLogitsThatAreNotFiniteAreDelivered) {
  const int V = TinyWorkerModel::kVocab;
  bool finite = true;
  StepRunner runner = MakeRunner([&](std::span<const Chunk> chunks, ExpertRunner&, std::vector<float>* logits) {
    logits->assign(chunks[0].tokens.size() * V, 0.0f);
    for (size_t row = 0; row < chunks[0].tokens.size(); ++row) (*logits)[row * V + 5] = 1000;
    if (!finite) logits->back() = std::numeric_limits<float>::quiet_NaN();
    return absl::OkStatus();
  });
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 1);
  AddChunk(&plan, 1, 0, {3}, true);
  EXPECT_EQ(runner.Run(plan, experts_)->sampled(0).token().token(), 5);
  plan.Clear();
  AddChunk(&plan, 1, 1, {5, 5, 5}, true);
  plan.mutable_chunks(0)->set_drafts(2);
  finite = false;
  v1::StepDone done = *runner.Run(plan, experts_);
  EXPECT_EQ(done.sampled(0).error(), "");
  EXPECT_EQ(done.sampled(0).more_size(), 1);
  plan.Clear();
  AddChunk(&plan, 1, 3, {5}, true);  // as if there never had been drafts
  done = *runner.Run(plan, experts_);
  EXPECT_NE(done.sampled(0).error(), "");
}

TEST_F(StepRunnerTest, PromptScoresDoNotDependOnChunking) {
  v1::SequenceStart start = Start(1, 40);
  start.set_want_prompt_logprobs(true);
  start.set_want_logprobs(true);
  start.set_top_logprobs(3);
  const std::vector<TokenId> prompt = Prompt(40, 4);
  std::string expected;
  for (int chunk : {40, 1, 13, 39}) {
    std::vector<v1::StepDone> dones;
    Generate(start, prompt, chunk, 2, &dones);
    std::string all;
    uint32_t position = 1;
    for (const v1::StepDone& done : dones) {
      for (const v1::PromptScores& scores : done.prompt_scores()) {
        EXPECT_EQ(scores.position(), position);
        for (const v1::TokenLogprob& score : scores.logprobs()) {
          EXPECT_EQ(score.token(), prompt[position++]);
          EXPECT_EQ(score.top_size(), 3);
          EXPECT_GE(score.top(0).logprob(), score.logprob());
          for (const auto& top : score.top()) EXPECT_NE(top.token(), TinyWorkerModel::kNoToken);
          all += score.SerializeAsString();
        }
      }
      for (const v1::Sampled& sampled : done.sampled()) {
        EXPECT_EQ(sampled.token().top_size(), 3);
        EXPECT_LT(sampled.token().logprob(), 0);
        all += sampled.SerializeAsString();
      }
    }
    EXPECT_EQ(position, 40u);
    if (expected.empty()) expected = all;
    EXPECT_EQ(all, expected) << chunk;
  }
}

// More rows than are in memory at a time: prompts of which every row is scored, between others.
TEST_F(StepRunnerTest, RowsThatComeInPiecesGiveTheSameAsAllAtOnce) {
  int rows_most = 0, pieces = 0;
  const auto in_pieces = [&](int begin, int end, std::vector<float>* logits) {
    rows_most = std::max(rows_most, end - begin);
    ++pieces;
    return engine_->Logits(begin, end, logits);
  };
  StepRunner runner(&model_.config(), &states_, &pool_, RealForward(),
                    {.step_tokens_max = 100, .masked = {TinyWorkerModel::kNoToken}}, in_pieces);
  std::vector<v1::StepPlan> plans(3);
  for (uint64_t id : {1, 2, 3}) {
    v1::SequenceStart start = Start(id, id == 2 ? 10 : 90, /*kv_blocks=*/6);
    start.set_want_prompt_logprobs(id != 2);
    start.set_want_logprobs(true);
    start.set_top_logprobs(2);
    *plans[0].add_start() = start;
  }
  const std::vector<TokenId> first = Prompt(90, 1), third = Prompt(90, 3);
  const auto part = [](const std::vector<TokenId>& all, int begin, int end) {
    return std::vector<TokenId>(all.begin() + begin, all.begin() + end);
  };
  AddChunk(&plans[0], 1, 0, part(first, 0, 1), false), AddChunk(&plans[0], 3, 0, part(third, 0, 80), false);
  AddChunk(&plans[1], 2, 0, Prompt(10, 2), true), AddChunk(&plans[1], 1, 1, part(first, 1, 90), true);
  AddChunk(&plans[2], 3, 80, part(third, 80, 90), true), AddChunk(&plans[2], 1, 90, {5}, true);
  std::vector<std::string> expected;
  for (const v1::StepPlan& plan : plans) {
    const auto done = Run(plan);
    ASSERT_TRUE(done.ok()) << done.status();
    expected.push_back(done->SerializeAsString());
  }
  for (size_t step = 0; step < plans.size(); ++step) {
    const auto done = runner.Run(plans[step], experts_);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(done->SerializeAsString(), expected[step]) << step;
  }
  EXPECT_EQ(rows_most, 64);
  EXPECT_EQ(pieces, 2 + 2 + 1);
}

// An engine that draws: as the sampler would, but for rows that are not finite, and only for who wants nothing else.
TEST_F(StepRunnerTest, TokensThatTheEngineDrawsAreTheSame) {
  int rows_seen = 0;
  const auto logits_of = [&](int begin, int end, std::vector<float>* logits) {
    rows_seen += end - begin;
    return engine_->Logits(begin, end, logits);
  };
  LateEngine drawer(engine_.get(), TinyWorkerModel::kNoToken);
  StepRunner runner(
      &model_.config(), &states_, &pool_,
      [&](auto chunks, ExpertRunner& experts, auto* logits) { return drawer.Run(chunks, experts, logits); },
      {.step_tokens_max = 100, .masked = {TinyWorkerModel::kNoToken}}, logits_of, &drawer);
  const auto simple = [](uint64_t id, float temperature, uint32_t top_k, float top_p) {
    v1::SequenceStart start;
    start.set_sequence(id);
    start.set_prompt_tokens(20);
    start.set_kv_blocks(4);
    start.mutable_sampling()->set_temperature(temperature);
    start.mutable_sampling()->set_top_k(top_k);
    start.mutable_sampling()->set_top_p(top_p);
    start.mutable_sampling()->set_repetition_penalty(1);
    start.mutable_sampling()->set_seed(id);
    return start;
  };
  v1::StepPlan plan;
  *plan.add_start() = simple(1, 0, 0, 1);
  *plan.add_start() = simple(2, 0.9f, 7, 0.9f);
  *plan.add_start() = Start(3, 20);  // has penalties
  plan.mutable_start(2)->set_want_prompt_logprobs(true);
  for (uint64_t id : {1, 2, 3}) AddChunk(&plan, id, 0, Prompt(20, static_cast<int>(id)), true);
  for (uint32_t step = 0; step < 12; ++step) {
    const auto expected = Run(plan), done = runner.Run(plan, experts_);
    ASSERT_TRUE(expected.ok() && done.ok()) << done.status();
    ASSERT_EQ(done->SerializeAsString(), expected->SerializeAsString()) << step;
    plan.Clear();
    for (const v1::Sampled& sampled : done->sampled())
      AddChunk(&plan, sampled.sequence(), 20 + step, {sampled.token().token()}, true);
  }
  EXPECT_EQ(rows_seen, 19 + 1 + 11) << "of the third, prompt scores and all";
}

// The row of the token that was sampled last.
void AddFollowUp(v1::StepPlan* plan, uint64_t id, uint32_t position) {
  AddChunk(plan, id, position, {}, true);
  plan->mutable_chunks(plan->chunks_size() - 1)->set_follows(true);
}

TEST_F(StepRunnerTest, AChunkThatFollowsRunsTheTokenThatWasChosen) {
  const std::vector<TokenId> expected = Generate(Start(1, 20), Prompt(20, 2), 20, 40);
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 20);
  AddChunk(&plan, 1, 0, Prompt(20, 2), true);
  for (uint32_t i = 0; i < 40; ++i) {
    const auto done = Run(plan);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->sampled(0).token().token(), expected[i]) << i;
    plan.Clear();
    if (i % 3 == 2) AddChunk(&plan, 1, 20 + i, {expected[i]}, true);  // some wait for the token
    if (i % 3 != 2) AddFollowUp(&plan, 1, 20 + i);
  }
}

TEST_F(StepRunnerTest, AChunkThatFollowsAStopTokenIsLeftOut) {
  const std::vector<TokenId> first = Generate(Start(1, 20), Prompt(20, 2), 20, 1);
  const std::vector<TokenId> second = Generate(Start(2, 20), Prompt(20, 3), 20, 2);
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 20);
  *plan.add_start() = Start(2, 20);
  plan.mutable_start(0)->add_stop_tokens(first[0]);
  plan.mutable_start(1)->add_stop_tokens(second[0] + 1);
  AddChunk(&plan, 1, 0, Prompt(20, 2), true);
  AddChunk(&plan, 2, 0, Prompt(20, 3), true);
  ASSERT_TRUE(Run(plan).ok());
  plan.Clear();
  AddFollowUp(&plan, 1, 20);
  AddFollowUp(&plan, 2, 20);
  const auto done = Run(plan);
  ASSERT_TRUE(done.ok()) << done.status();
  ASSERT_EQ(done->sampled_size(), 1);
  EXPECT_EQ(done->sampled(0).sequence(), 2u);
  EXPECT_EQ(done->sampled(0).token().token(), second[1]);
}

TEST_F(StepRunnerTest, RefusesAChunkThatFollowsNothing) {
  v1::StepPlan begin;
  *begin.add_start() = Start(1, 20);
  AddChunk(&begin, 1, 0, Prompt(10, 2), false);
  const auto refusal = [&](uint64_t id, uint32_t position, const std::vector<TokenId>& tokens) {
    EXPECT_TRUE(Run(begin).ok());
    v1::StepPlan plan;
    AddFollowUp(&plan, id, position);
    plan.mutable_chunks(0)->mutable_tokens()->Add(tokens.begin(), tokens.end());
    return Refusal(plan).code();
  };
  EXPECT_EQ(refusal(1, 10, {}), absl::StatusCode::kInvalidArgument) << "no token was to be chosen";
  EXPECT_EQ(refusal(2, 10, {}), absl::StatusCode::kInvalidArgument) << "an unknown sequence";
  begin.mutable_start(0)->set_prompt_tokens(10);
  begin.mutable_chunks(0)->set_sample(true);
  EXPECT_EQ(refusal(1, 10, {5}), absl::StatusCode::kInvalidArgument) << "it says itself what is to be run";
  EXPECT_EQ(refusal(1, 11, {}), absl::StatusCode::kInvalidArgument) << "a gap";
}

TEST_F(StepRunnerTest, AnEmptyPlanStillRunsTheExperts) {
  int calls = 0;
  StepRunner runner = MakeRunner([&](std::span<const Chunk> chunks, ExpertRunner&, std::vector<float>* logits) {
    ++calls;
    EXPECT_TRUE(chunks.empty());
    logits->clear();
    return absl::OkStatus();
  });
  EXPECT_TRUE(runner.Run({}, experts_).ok());
  EXPECT_EQ(calls, 1);
}

TEST_F(StepRunnerTest, LogitsThatAreNotFiniteFailTheirSequenceAlone) {
  const int V = TinyWorkerModel::kVocab;
  StepRunner runner = MakeRunner([&](std::span<const Chunk> chunks, ExpertRunner&, std::vector<float>* logits) {
    logits->assign(chunks.size() * V, 0.5f);
    (*logits)[3] = std::numeric_limits<float>::quiet_NaN();
    return absl::OkStatus();
  });
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 2);
  *plan.add_start() = Start(2, 2);
  AddChunk(&plan, 1, 0, {1, 2}, true);
  AddChunk(&plan, 2, 0, {1, 2}, true);
  auto done = runner.Run(plan, experts_);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->sampled(0).token().token(), -1);
  EXPECT_NE(done->sampled(0).error(), "");
  EXPECT_GE(done->sampled(1).token().token(), 0);
  EXPECT_EQ(done->sampled(1).error(), "");
  plan.Clear();
  AddFollowUp(&plan, 1, 2);
  EXPECT_EQ(runner.Run(plan, experts_)->sampled_size(), 0) << "and nothing follows it";
}

TEST_F(StepRunnerTest, PassesOnWhatStoppedTheForwardPass) {
  StepRunner runner = MakeRunner([](auto, ExpertRunner&, auto*) { return absl::UnavailableError("rank 1 is gone"); });
  EXPECT_EQ(runner.Run({}, experts_).status(), absl::UnavailableError("rank 1 is gone"));
}

TEST_F(StepRunnerTest, RefusesPlansThatContradictThemselvesOrItsState) {
  const std::vector<TokenId> two = {1, 2};
  const auto refused = [&](const std::function<void(v1::StepPlan*)>& fill) {
    return Refusal([&] {
      v1::StepPlan plan;
      *plan.add_start() = Start(1, 2, 1);
      fill(&plan);
      return plan;
    }());
  };
  EXPECT_EQ(refused([](auto* plan) { *plan->add_start() = Start(1, 2, 1); }).code(), absl::StatusCode::kInvalidArgument)
      << "a sequence that is here already";
  EXPECT_EQ(refused([](auto* plan) { *plan->add_start() = Start(2, 2, kBlocks); }).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(refused([](auto* plan) { *plan->add_start() = Start(2, 2, 0); }).ok());
  EXPECT_FALSE(refused([](auto* plan) { *plan->add_start() = Start(2, 2, 4000000000u); }).ok());
  EXPECT_FALSE(refused([](auto* plan) { *plan->add_start() = Start(2, 0); }).ok());
  EXPECT_FALSE(refused([](auto* plan) { *plan->add_start() = Start(2, 4000000000u); }).ok());
  EXPECT_FALSE(refused([](auto* plan) {
                 for (int id = 2; id < 5; ++id) *plan->add_start() = Start(id, 2, 1);
               }).ok())
      << "more sequences than there is room for";
  EXPECT_FALSE(refused([](auto* plan) { plan->mutable_start(0)->mutable_sampling()->set_top_p(7); }).ok());
  EXPECT_FALSE(refused([](auto* plan) { plan->mutable_start(0)->set_top_logprobs(21); }).ok());
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 9, 0, two, true); }).ok()) << "unknown sequence";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 1, two, true); }).ok()) << "a gap";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 4294967295u, two, true); }).ok()) << "overflow";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 0, {}, true); }).ok()) << "no tokens";
  EXPECT_FALSE(refused([&](auto* plan) {
                 AddChunk(plan, 1, 0, {1, TinyWorkerModel::kVocab}, true);
               }).ok())
      << "vocabulary";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 0, {1, -1}, true); }).ok()) << "negative token";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 0, {1}, true); }).ok()) << "samples inside the prompt";
  EXPECT_FALSE(refused([&](auto* plan) { AddChunk(plan, 1, 0, Prompt(33, 1), true); }).ok()) << "beyond its blocks";
  EXPECT_FALSE(refused([&](auto* plan) {
                 AddChunk(plan, 1, 0, two, true);
                 AddChunk(plan, 1, 2, two, true);
               }).ok())
      << "two chunks of one sequence";
  EXPECT_FALSE(refused([&](auto* plan) {
                 *plan->add_start() = Start(2, 2, 8);
                 AddChunk(plan, 2, 0, Prompt(101, 1), true);
               }).ok())
      << "too many rows";
}

TEST_F(StepRunnerTest, RefusesDraftsThatItCouldNotTakeBack) {
  const auto refusal = [&](uint32_t position, int tokens, uint32_t drafts, bool sample) {
    v1::StepPlan plan;
    *plan.add_start() = Start(1, 2);
    AddChunk(&plan, 1, 0, {1, 2}, true);
    EXPECT_TRUE(Run(plan).ok());
    plan.Clear();
    AddChunk(&plan, 1, position, Prompt(tokens, 1), sample);
    plan.mutable_chunks(0)->set_drafts(drafts);
    return Refusal(plan);
  };
  EXPECT_TRUE(refusal(2, 9, 8, true).ok());
  EXPECT_FALSE(refusal(2, 9, 7, true).ok()) << "two sure tokens";
  EXPECT_FALSE(refusal(2, 1, 1, true).ok()) << "none";
  EXPECT_FALSE(refusal(2, 1, 4294967295u, true).ok());
  EXPECT_FALSE(refusal(2, 9, 8, false).ok()) << "nothing is sampled";
  EXPECT_FALSE(refusal(2, 16, 15, true).ok()) << "more than the conv columns";
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 1);
  AddChunk(&plan, 1, 0, {1, 2}, true);
  plan.mutable_chunks(0)->set_drafts(1);
  EXPECT_FALSE(Refusal(plan).ok()) << "behind the prompt";
}

TEST_F(StepRunnerTest, ReleasesBeforeItStartsAndIgnoresUnknownReleases) {
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 2, kBlocks);
  ASSERT_TRUE(Run(plan).ok());
  v1::StepPlan next;
  next.add_release(1);
  next.add_release(12345);
  *next.add_start() = Start(2, 2, kBlocks);
  EXPECT_TRUE(Run(next).ok());
  EXPECT_EQ(runner_.sequences().size(), 1);
}

}  // namespace
}  // namespace braid
