#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "expert_worker/step_runner.h"
#include "expert_worker/tiny_model.h"
#include "model/engine.h"

// Steps that never happened leave no trace: whatever is run, in part or whole, and then taken back by a Begin, what
// follows is bit for bit what it would have been.

namespace braid {
namespace {

constexpr int kContext = 512, kBlocksPerSequence = kContext / kKvBlockTokens;
constexpr int kSequences = 4, kAnswerTokens = 30;

// Runs experts until told to fail in a layer.
class FailingExperts : public ExpertRunner {
 public:
  explicit FailingExperts(LocalExperts* experts) : experts_(experts) {}
  // The next step fails in its MoE layer `call`, counted from 0.
  void FailAt(int call) { calls_left_ = call; }
  absl::Status Run(const RoutedBatch& batch) override {
    if (calls_left_ == 0) {
      calls_left_ = -1;
      return absl::UnavailableError("rank 1 is gone");
    }
    if (calls_left_ > 0) --calls_left_;
    return experts_->Run(batch);
  }

 private:
  LocalExperts* experts_;
  int calls_left_ = -1;
};

v1::SequenceStart Start(uint64_t id, int prompt_tokens) {
  v1::SequenceStart start;
  start.set_sequence(id);
  start.set_prompt_tokens(prompt_tokens);
  start.set_kv_blocks(kBlocksPerSequence);
  start.set_want_logprobs(true);
  start.set_top_logprobs(2);
  v1::SamplingParams* sampling = start.mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1.3f);
  sampling->set_presence_penalty(0.4f);
  sampling->set_frequency_penalty(0.3f);
  sampling->set_seed(id);
  return start;
}

void AddChunk(v1::StepPlan* plan, uint64_t id, int position, std::span<const TokenId> tokens, bool sample) {
  v1::SequenceChunk* chunk = plan->add_chunks();
  chunk->set_sequence(id);
  plan->set_rows_max(1024);  // drafts are added later
  chunk->set_position(position);
  chunk->mutable_tokens()->Assign(tokens.begin(), tokens.end());
  chunk->set_sample(sample);
}

class RollbackTest : public testing::Test {
 protected:
  StepRunner MakeRunner() {
    return StepRunner(
        &model_.config(), &states_, &pool_,
        [this](auto chunks, ExpertRunner& experts, auto* logits) { return engine_->Run(chunks, experts, logits); },
        {.step_tokens_max = 2000, .masked = {TinyWorkerModel::kNoToken}});
  }
  static std::vector<TokenId> RandomTokens(int n, std::mt19937& rng) {
    std::vector<TokenId> tokens(n);
    for (TokenId& token : tokens) token = static_cast<TokenId>(rng() % TinyWorkerModel::kNoToken);
    return tokens;
  }

  const TinyWorkerModel model_;
  ThreadPool pool_{2};
  HostStates states_{model_.config(), {.blocks = kSequences * kBlocksPerSequence, .sequences = kSequences}};
  const std::unique_ptr<Engine> engine_ = MakeEngine(&model_.config(), &model_.tensors(), &states_, &pool_);
  LocalExperts local_{model_.config().experts, &engine_->experts(), &pool_};
  FailingExperts experts_{&local_};
};

// A sequence as the router knows it.
struct Known {
  uint64_t id = 0;
  int prompt_tokens = 0;
  std::vector<TokenId> tokens;  // prompt, and answer so far
  int committed = 0;            // of them, in the worker's cache
  bool started = false;
  std::vector<std::string> answers;  // each token sampled, with its log probabilities
};

class RandomSchedule : public RollbackTest {
 protected:
  // What each sequence says if nothing ever happens to it.
  void Expect(const Known& sequence) {
    StepRunner runner = MakeRunner();
    auto& [tokens, answers] = expected_.emplace_back(Expected{sequence.tokens, {}});
    v1::StepPlan plan;
    *plan.add_start() = Start(sequence.id, sequence.prompt_tokens);
    for (size_t position = 0; static_cast<int>(answers.size()) < kAnswerTokens;) {
      AddChunk(&plan, sequence.id, static_cast<int>(position), std::span(tokens).subspan(position), true);
      position = tokens.size();
      const auto done = runner.Run(plan, local_);
      ASSERT_TRUE(done.ok()) << done.status();
      answers.push_back(done->sampled(0).token().SerializeAsString());
      tokens.push_back(done->sampled(0).token().token());
      plan.Clear();
    }
  }

  bool Done() const {
    return std::ranges::all_of(sequences_, [](const Known& s) { return s.answers.size() >= kAnswerTokens; });
  }
  bool Chance(int percent) { return static_cast<int>(rng_() % 100) < percent; }
  int UpTo(int max) { return 1 + static_cast<int>(rng_() % max); }

  void Step(StepRunner& runner) {
    v1::StepPlan plan;
    for (Known& sequence : sequences_) {
      if (sequence.answers.size() >= kAnswerTokens || !Chance(70)) continue;
      if (!sequence.started) *plan.add_start() = Start(sequence.id, sequence.prompt_tokens);
      sequence.started = true;
      const int left = static_cast<int>(sequence.tokens.size()) - sequence.committed;
      const int n = std::min(left, UpTo(300));
      AddChunk(&plan, sequence.id, sequence.committed, std::span(sequence.tokens).subspan(sequence.committed, n),
               n == left);
      if (Drafts(sequence)) AddDrafts(sequence, plan.mutable_chunks(plan.chunks_size() - 1));
      sequence.committed += n;
    }
    const auto done = runner.Run(plan, experts_);
    ASSERT_TRUE(done.ok()) << done.status();
    last_plan_ = plan;
    last_done_ = *done;
    for (const v1::Sampled& sampled : done->sampled()) {
      Known& sequence = sequences_[sampled.sequence() - 1];
      ASSERT_NO_FATAL_FAILURE(Hear(sequence, sampled.token()));
      for (const v1::TokenLogprob& more : sampled.more()) {
        ASSERT_NO_FATAL_FAILURE(Hear(sequence, more));
        ++sequence.committed;
        ++drafts_taken_;
      }
    }
  }
  void Hear(Known& sequence, const v1::TokenLogprob& token) {
    sequence.tokens.push_back(token.token());
    sequence.answers.push_back(token.SerializeAsString());
    ASSERT_EQ(sequence.answers.back(), expected_[sequence.id - 1].answers[sequence.answers.size() - 1]);
  }

  bool Drafts(const Known& sequence) { return sequence.committed >= sequence.prompt_tokens && Chance(50); }
  // Up to 8 tokens that will come, one of them perhaps wrong.
  void AddDrafts(const Known& sequence, v1::SequenceChunk* chunk) {
    const std::vector<TokenId>& right = expected_[sequence.id - 1].tokens;
    const size_t begin = sequence.tokens.size(), end = begin + static_cast<size_t>(UpTo(8));
    for (size_t i = begin; i < end && i + 1 < right.size(); ++i) {
      chunk->add_tokens(Chance(15) ? static_cast<TokenId>(rng_() % TinyWorkerModel::kNoToken) : right[i]);
    }
    chunk->set_drafts(static_cast<uint32_t>(chunk->tokens_size()) - 1);
  }

  // Anything: other tokens than will come, chunks of any length, sequences that are started. Then it is taken back.
  void VoidStep(StepRunner& runner) {
    v1::StepPlan plan;
    for (const Known& sequence : sequences_) {
      if (!Chance(70)) continue;
      if (!sequence.started) *plan.add_start() = Start(sequence.id, sequence.prompt_tokens);
      const int n = std::min(Chance(50) ? UpTo(20) : UpTo(300), kContext - sequence.committed);
      const bool sample = sequence.committed + n >= sequence.prompt_tokens;
      if (Drafts(sequence)) {
        AddChunk(&plan, sequence.id, sequence.committed, {&sequence.tokens.back(), 1}, true);
        AddDrafts(sequence, plan.mutable_chunks(plan.chunks_size() - 1));
        continue;
      }
      AddChunk(&plan, sequence.id, sequence.committed, RandomTokens(n, rng_), sample);
    }
    const int layers = model_.config().moe_layer_count();
    const int fails_at = static_cast<int>(rng_() % (layers + 1));
    if (fails_at < layers) experts_.FailAt(fails_at);
    const auto done = runner.Run(plan, experts_);
    ASSERT_EQ(done.ok(), fails_at == layers);
    if (done.ok() && Chance(50)) FollowUp(runner, plan, *done);
  }

  // The step that was sent behind one that may not be committed. It is taken back, whatever becomes of the first.
  void FollowUp(StepRunner& runner, const v1::StepPlan& first, const v1::StepDone& done) {
    v1::StepPlan plan;
    int next = 0;
    for (const v1::SequenceChunk& chunk : first.chunks()) {
      if (!chunk.sample()) continue;
      const int end = static_cast<int>(chunk.position() + chunk.tokens_size() - chunk.drafts());
      const int position = end + done.sampled(next++).more_size();
      if (position >= kContext || Chance(20)) continue;
      AddChunk(&plan, chunk.sequence(), position, {}, true);
      plan.mutable_chunks(plan.chunks_size() - 1)->set_follows(true);
    }
    const bool fails = !plan.chunks().empty() && Chance(30);
    if (fails) experts_.FailAt(0);
    EXPECT_EQ(runner.Run(plan, experts_).status(), fails ? absl::UnavailableError("rank 1 is gone") : absl::OkStatus());
    ++follow_ups_;
  }

  void Begin(StepRunner& runner) {
    last_plan_.Clear();
    v1::Begin begin;
    int kept = 0;
    for (const Known& sequence : sequences_) {
      if (!sequence.started) continue;
      v1::SequenceKept* keep = begin.add_keep();
      keep->set_sequence(sequence.id);
      keep->set_length(sequence.committed);
      ++kept;
    }
    EXPECT_TRUE(runner.Begin(begin).empty());
    EXPECT_EQ(runner.sequences().size(), kept) << "one that began in a void step is forgotten";
  }

  std::mt19937 rng_{1};
  std::vector<Known> sequences_;
  struct Expected {
    std::vector<TokenId> tokens;  // prompt and answer
    std::vector<std::string> answers;
  };
  std::vector<Expected> expected_;
  int drafts_taken_ = 0, follow_ups_ = 0;
  v1::StepPlan last_plan_;  // of the last Step, if nothing has happened since
  v1::StepDone last_done_;
};

TEST_F(RandomSchedule, GivesTheSameBitsWhateverWasTakenBack) {
  int taken_back = 0;
  for (int round = 0; round < 12; ++round) {
    sequences_.clear();
    expected_.clear();
    last_plan_.Clear();
    for (int i = 0; i < kSequences; ++i) {
      const int prompt_tokens = Chance(30) ? UpTo(20) : UpTo(400);
      sequences_.push_back({.id = static_cast<uint64_t>(i + 1),
                            .prompt_tokens = prompt_tokens,
                            .tokens = RandomTokens(prompt_tokens, rng_)});
      ASSERT_NO_FATAL_FAILURE(Expect(sequences_.back()));
    }
    StepRunner runner = MakeRunner();
    while (!Done()) {
      if (!last_plan_.chunks().empty() && Chance(20)) {
        FollowUp(runner, last_plan_, last_done_);  // behind a step that is committed
        Begin(runner);
      } else if (Chance(40)) {
        ASSERT_NO_FATAL_FAILURE(VoidStep(runner));
        ++taken_back;
        Begin(runner);
      } else if (Chance(10)) {
        Begin(runner);  // an epoch that ended between two steps
      }
      ASSERT_NO_FATAL_FAILURE(Step(runner)) << "round " << round;
    }
  }
  EXPECT_GT(taken_back, 100);
  EXPECT_GT(drafts_taken_, 100);
  EXPECT_GT(follow_ups_, 50);
}

v1::Begin Keep(uint64_t sequence, uint32_t length) {
  v1::Begin begin;
  begin.add_keep()->set_sequence(sequence);
  begin.mutable_keep(0)->set_length(length);
  return begin;
}

TEST_F(RollbackTest, MissesWhatItCannotBringThere) {
  std::mt19937 rng(2);
  const auto missing = [&](const v1::Begin& begin) {
    StepRunner runner = MakeRunner();
    v1::StepPlan plan;
    *plan.add_start() = Start(1, 30);
    for (int position : {0, 10, 20}) {
      AddChunk(&plan, 1, position, RandomTokens(10, rng), position == 20);
      EXPECT_TRUE(runner.Run(plan, experts_).ok());
      plan.Clear();
    }
    const bool missed = runner.Begin(begin) == std::vector<uint64_t>{begin.keep(0).sequence()};
    EXPECT_EQ(runner.sequences().size(), missed ? 0 : 1);
    EXPECT_EQ(runner.sequences().blocks().used(), missed ? 0 : kBlocksPerSequence);
    return missed;
  };
  EXPECT_FALSE(missing(Keep(1, 30)));
  EXPECT_FALSE(missing(Keep(1, 20)));
  EXPECT_TRUE(missing(Keep(1, 10))) << "two chunks back";
  EXPECT_TRUE(missing(Keep(1, 25))) << "inside of a chunk";
  EXPECT_TRUE(missing(Keep(1, 31))) << "ahead of it";
  EXPECT_TRUE(missing(Keep(1, 4294967295u)));
  EXPECT_TRUE(missing(Keep(2, 30))) << "unknown";
}

TEST_F(RollbackTest, TakesBackTwoRunsThatTogetherReachAroundTheRing) {
  const auto answer = [&](StepRunner& runner, int position, std::span<const TokenId> tokens) {
    v1::StepPlan plan;
    AddChunk(&plan, 1, position, tokens, true);
    return runner.Run(plan, experts_)->SerializeAsString();
  };
  for (int tokens = 1; tokens <= kConvColumns; ++tokens) {
    std::mt19937 rng(6);
    StepRunner runner = MakeRunner();
    v1::StepPlan plan;
    *plan.add_start() = Start(1, 30);
    AddChunk(&plan, 1, 0, RandomTokens(30, rng), true);
    ASSERT_TRUE(runner.Run(plan, experts_).ok());
    const std::vector<TokenId> next = RandomTokens(tokens, rng);
    const std::string expected = answer(runner, 30, next);
    plan.Clear();
    AddChunk(&plan, 1, 30 + tokens, {}, true);
    plan.mutable_chunks(0)->set_follows(true);
    ASSERT_TRUE(runner.Run(plan, experts_).ok());
    EXPECT_TRUE(runner.Begin(Keep(1, 30)).empty());
    EXPECT_EQ(answer(runner, 30, next), expected) << tokens;
  }
}

TEST_F(RollbackTest, CopiesConvColumnsForRunsThatTheRingIsTooShortFor) {
  std::mt19937 rng(7);
  StepRunner runner = MakeRunner();
  const int ring = ShortRunTokens(model_.config());
  int position = 0;
  const auto copies_behind_run_of = [&](int tokens) {
    v1::StepPlan plan;
    if (position == 0) *plan.add_start() = Start(1, 100);
    AddChunk(&plan, 1, position, RandomTokens(tokens, rng), false);
    EXPECT_TRUE(runner.Run(plan, experts_).ok());
    position += tokens;
    return runner.sequences().conv_copies_used();
  };
  EXPECT_EQ(copies_behind_run_of(ring + 1), 0) << "there is nothing before it";
  EXPECT_EQ(copies_behind_run_of(ring + 1), 1);
  EXPECT_EQ(copies_behind_run_of(ring + 1), 1) << "the run before it cannot be taken back any more";
  EXPECT_EQ(copies_behind_run_of(ring), 0);
  EXPECT_EQ(copies_behind_run_of(ring + 1), 1);
  EXPECT_TRUE(runner.Begin(Keep(1, position)).empty());
  EXPECT_EQ(runner.sequences().conv_copies_used(), 0);
  EXPECT_EQ(copies_behind_run_of(ring + 1), 1);
  runner.Clear();
  EXPECT_EQ(runner.sequences().conv_copies_used(), 0);
}

TEST_F(RollbackTest, ForgetsWhatIsNotKept) {
  std::mt19937 rng(3);
  StepRunner runner = MakeRunner();
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 5);
  *plan.add_start() = Start(2, 5);
  AddChunk(&plan, 1, 0, RandomTokens(5, rng), true);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_TRUE(runner.Begin(Keep(1, 5)).empty());
  EXPECT_EQ(runner.sequences().size(), 1);
  EXPECT_TRUE(runner.Begin({}).empty());
  EXPECT_EQ(runner.sequences().blocks().used(), 0);
}

TEST_F(RollbackTest, TakesASequenceBackToItsVeryBeginning) {
  std::mt19937 rng(4);
  StepRunner runner = MakeRunner();
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 40);
  AddChunk(&plan, 1, 0, RandomTokens(40, rng), true);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_TRUE(runner.Begin(Keep(1, 0)).empty());
}

TEST_F(RollbackTest, AnErrorOfAVoidStepIsVoid) {
  bool finite = false;
  StepRunner runner(&model_.config(), &states_, &pool_,
                    [&](std::span<const Chunk> chunks, ExpertRunner&, std::vector<float>* logits) {
                      logits->assign(chunks.size() * TinyWorkerModel::kVocab,
                                     finite ? 0.5f : std::numeric_limits<float>::quiet_NaN());
                      return absl::OkStatus();
                    },
                    {.step_tokens_max = 2000});
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 2);
  AddChunk(&plan, 1, 0, std::vector<TokenId>{1, 2}, true);
  EXPECT_NE(runner.Run(plan, experts_)->sampled(0).error(), "");
  EXPECT_TRUE(runner.Begin(Keep(1, 0)).empty());
  finite = true;
  plan.clear_start();
  EXPECT_EQ(runner.Run(plan, experts_)->sampled(0).error(), "");
}

TEST_F(RollbackTest, ASequenceThatScoresItsPromptIsMissedIfScoresAreLost) {
  std::mt19937 rng(5);
  StepRunner runner = MakeRunner();
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 30);
  plan.mutable_start(0)->set_want_prompt_logprobs(true);
  AddChunk(&plan, 1, 0, RandomTokens(10, rng), false);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  plan.Clear();
  AddChunk(&plan, 1, 10, RandomTokens(20, rng), true);
  experts_.FailAt(1);
  ASSERT_FALSE(runner.Run(plan, experts_).ok());
  EXPECT_TRUE(runner.Begin(Keep(1, 10)).empty()) << "nothing was scored yet";
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_FALSE(runner.Begin(Keep(1, 10)).empty());
}

}  // namespace
}  // namespace braid
