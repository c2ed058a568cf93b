#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>

#include "base/check.h"
#include "base/status.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/tiny_model.h"
#include "model/engine.h"

// Sequences that begin with a snapshot say bit for bit what they say without, wherever it was saved, whatever became of
// the sequence it was saved of, and whatever steps are taken back between.

namespace braid {
namespace {

constexpr int kBlock = kKvBlockTokens, kContext = 512, kBlocksPerSequence = kContext / kBlock;
constexpr int kAnswerTokens = 6, kSnapshotsMax = 6, kBlocks = 9 * kBlocksPerSequence;

class FailingExperts : public ExpertRunner {
 public:
  explicit FailingExperts(LocalExperts* experts) : experts_(experts) {}
  bool fail = false;  // the next layer
  absl::Status Run(const RoutedBatch& batch) override {
    if (std::exchange(fail, false)) return absl::UnavailableError("rank 1 is gone");
    return experts_->Run(batch);
  }

 private:
  LocalExperts* experts_;
};

v1::SequenceStart Start(uint64_t id, int prompt_tokens, bool penalties = true) {
  v1::SequenceStart start;
  start.set_sequence(id);
  start.set_prompt_tokens(prompt_tokens);
  start.set_kv_blocks(kBlocksPerSequence);
  start.set_want_logprobs(true);
  v1::SamplingParams* sampling = start.mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(penalties ? 1.3f : 1.0f);
  sampling->set_frequency_penalty(penalties ? 0.3f : 0.0f);
  sampling->set_seed(7);
  return start;
}

v1::SequenceChunk* AddChunk(v1::StepPlan* plan, uint64_t id, int position, std::span<const TokenId> tokens,
                            bool sample) {
  v1::SequenceChunk* chunk = plan->add_chunks();
  chunk->set_sequence(id);
  plan->set_rows_max(plan->rows_max() + std::max<uint32_t>(1, tokens.size()));
  chunk->set_position(position);
  chunk->mutable_tokens()->Assign(tokens.begin(), tokens.end());
  chunk->set_sample(sample);
  return chunk;
}

void AddSave(v1::SequenceChunk* chunk, uint64_t snapshot, int position) {
  v1::SnapshotSave* save = chunk->add_saves();
  save->set_snapshot(snapshot);
  save->set_position(position);
}

class PrefixTest : public testing::Test {
 protected:
  StepRunner MakeRunner() { return MakeRunner(&states_, engine_.get()); }
  StepRunner MakeRunner(HostStates* states, Engine* engine) {
    return StepRunner(
        &model_.config(), states, &pool_,
        [engine](auto chunks, ExpertRunner& experts, auto* logits) { return engine->Run(chunks, experts, logits); },
        {.step_tokens_max = 4000, .masked = {TinyWorkerModel::kNoToken}});
  }
  std::vector<TokenId> RandomTokens(int n) {
    std::vector<TokenId> tokens(n);
    for (TokenId& token : tokens) token = static_cast<TokenId>(rng_() % TinyWorkerModel::kNoToken);
    return tokens;
  }
  int UpTo(int max) { return 1 + static_cast<int>(rng_() % max); }
  bool Chance(int percent) { return static_cast<int>(rng_() % 100) < percent; }

  std::mt19937 rng_{1};
  const TinyWorkerModel model_;
  ThreadPool pool_{2};
  HostStates states_{model_.config(), {.blocks = kBlocks, .sequences = 6, .snapshots = kSnapshotsMax}};
  const std::unique_ptr<Engine> engine_ = MakeEngine(&model_.config(), &model_.tensors(), &states_, &pool_);
  LocalExperts local_{model_.config().experts, &engine_->experts(), &pool_};
  FailingExperts experts_{&local_};
};

struct Known {
  uint64_t id = 0;
  int prompt_tokens = 0;
  std::vector<TokenId> tokens;
  int committed = 0;
  bool started = false;
  std::vector<std::string> answers;
  std::vector<std::string> expected;
};

class RandomPrefixes : public PrefixTest {
 protected:
  Known NewSequence(uint64_t id) {
    Known sequence{.id = id};
    // One of two beginnings, and perhaps what somebody has answered to it.
    sequence.tokens = beginnings_[rng_() % beginnings_.size()];
    if (!finished_.empty() && Chance(30)) sequence.tokens = finished_[rng_() % finished_.size()];
    sequence.tokens.resize(std::min<size_t>(sequence.tokens.size(), UpTo(400)));
    const std::vector<TokenId> more = RandomTokens(UpTo(40));
    sequence.tokens.insert(sequence.tokens.end(), more.begin(), more.end());
    sequence.prompt_tokens = static_cast<int>(sequence.tokens.size());
    StepRunner runner = MakeRunner(&states_alone_, alone_.get());
    std::vector<TokenId> tokens = sequence.tokens;
    v1::StepPlan plan;
    *plan.add_start() = Start(1, sequence.prompt_tokens);
    for (size_t position = 0; static_cast<int>(sequence.expected.size()) < kAnswerTokens;) {
      AddChunk(&plan, 1, static_cast<int>(position), std::span(tokens).subspan(position), true);
      position = tokens.size();
      const auto done = runner.Run(plan, local_);
      CHECK(done.ok()) << done.status();
      sequence.expected.push_back(done->sampled(0).token().SerializeAsString());
      tokens.push_back(done->sampled(0).token().token());
      plan.Clear();
    }
    return sequence;
  }

  void AddStart(v1::StepPlan* plan, Known& sequence) {
    v1::SequenceStart* start = plan->add_start();
    *start = Start(sequence.id, sequence.prompt_tokens);
    std::vector<std::pair<uint64_t, size_t>> fitting;
    for (const auto& [id, tokens] : snapshots_) {
      if (tokens.size() < sequence.tokens.size() &&
          std::ranges::equal(tokens, std::span(sequence.tokens).first(tokens.size())))
        fitting.emplace_back(id, tokens.size());
    }
    if (fitting.empty() || Chance(10)) return;
    const auto [id, length] = fitting[rng_() % fitting.size()];
    start->set_resume(id);
    start->mutable_resumed_tokens()->Add(sequence.tokens.begin(), sequence.tokens.begin() + static_cast<long>(length));
    sequence.committed = static_cast<int>(length);
    resumed_ += 1;
  }

  // One step, which is taken back or not.
  void Step(StepRunner& runner, bool is_void) {
    v1::StepPlan plan;
    plan.mutable_release()->Add(releases_.begin(), releases_.end());
    releases_.clear();
    while (!snapshots_.empty() && (snapshots_.size() >= kSnapshotsMax || Chance(10))) {
      plan.add_drop_snapshots(snapshots_.begin()->first);
      snapshots_.erase(snapshots_.begin());
    }
    std::vector<Known> after = sequences_;
    std::map<uint64_t, std::vector<TokenId>> saved;
    for (Known& sequence : after) {
      if (!Chance(70)) continue;
      if (!sequence.started) AddStart(&plan, sequence);
      sequence.started = true;
      const int left = static_cast<int>(sequence.tokens.size()) - sequence.committed;
      const int n = std::min(left, Chance(50) ? UpTo(30) : UpTo(300)), end = sequence.committed + n;
      v1::SequenceChunk* chunk = AddChunk(&plan, sequence.id, sequence.committed,
                                          std::span(sequence.tokens).subspan(sequence.committed, n), n == left);
      for (int at = (sequence.committed / kBlock + 1) * kBlock; at <= end; at += kBlock) {
        if (snapshots_.size() + saved.size() >= kSnapshotsMax || Chance(60)) continue;
        AddSave(chunk, ++last_snapshot_, at);
        saved[last_snapshot_].assign(sequence.tokens.begin(), sequence.tokens.begin() + at);
      }
      sequence.committed = end;
    }
    if (is_void) experts_.fail = Chance(50);
    const bool fails = experts_.fail;
    const auto done = runner.Run(plan, experts_);
    ASSERT_EQ(done.ok(), !fails) << done.status();
    if (is_void) return;
    sequences_ = std::move(after);
    snapshots_.merge(saved);
    for (const v1::Sampled& sampled : done->sampled()) {
      Known& sequence = *std::ranges::find(sequences_, sampled.sequence(), &Known::id);
      sequence.tokens.push_back(sampled.token().token());
      sequence.answers.push_back(sampled.token().SerializeAsString());
      ASSERT_EQ(sequence.answers.back(), sequence.expected[sequence.answers.size() - 1]);
    }
  }

  void Begin(StepRunner& runner) {
    v1::Begin begin;
    for (const Known& sequence : sequences_) {
      if (!sequence.started) continue;
      v1::SequenceKept* keep = begin.add_keep();
      keep->set_sequence(sequence.id);
      keep->set_length(sequence.committed);
    }
    while (!snapshots_.empty() && Chance(5)) snapshots_.erase(snapshots_.begin());
    for (const auto& [id, tokens] : snapshots_) begin.add_keep_snapshots(id);
    ASSERT_TRUE(runner.Begin(begin).empty());
    ASSERT_EQ(runner.sequences().snapshots().size(), static_cast<int>(snapshots_.size()));
    releases_.clear();
  }

  // For the right answers: the other pool is in use meanwhile.
  HostStates states_alone_{model_.config(), {.blocks = kBlocksPerSequence}};
  const std::unique_ptr<Engine> alone_ = MakeEngine(&model_.config(), &model_.tensors(), &states_alone_, &pool_);
  std::vector<std::vector<TokenId>> beginnings_ = {RandomTokens(400), RandomTokens(400)};
  std::vector<std::vector<TokenId>> finished_;
  std::vector<Known> sequences_;
  std::map<uint64_t, std::vector<TokenId>> snapshots_;
  std::vector<uint64_t> releases_;
  uint64_t last_snapshot_ = 0;
  int resumed_ = 0;
};

TEST_F(RandomPrefixes, GiveTheSameBits) {
  StepRunner runner = MakeRunner();
  uint64_t last_sequence = 0;
  for (int step = 0; step < 600; ++step) {
    std::erase_if(sequences_, [this](const Known& sequence) {
      const bool ends = sequence.answers.size() >= kAnswerTokens || (sequence.started && Chance(1));
      if (ends && sequence.started) releases_.push_back(sequence.id);
      if (ends) finished_.push_back(sequence.tokens);
      return ends;
    });
    while (sequences_.size() < 3) sequences_.push_back(NewSequence(++last_sequence));
    const bool is_void = Chance(20);
    ASSERT_NO_FATAL_FAILURE(Step(runner, is_void)) << "step " << step;
    if (!is_void && !Chance(5)) continue;
    ASSERT_NO_FATAL_FAILURE(Begin(runner));
  }
  EXPECT_GT(resumed_, 50);
  // And nothing is left behind.
  runner.Clear();
  EXPECT_EQ(runner.sequences().blocks().used(), 0);
  EXPECT_EQ(runner.sequences().snapshots().size(), 0);
  EXPECT_EQ(runner.sequences().conv_copies_used(), 0);
}

TEST_F(PrefixTest, BlocksAreFreeWhenTheLastOneLetsGo) {
  StepRunner runner = MakeRunner();
  const std::vector<TokenId> prompt = RandomTokens(100);
  const auto used = [&] { return runner.sequences().blocks().used(); };
  v1::StepPlan plan;
  *plan.add_start() = Start(1, 100, false);
  AddSave(AddChunk(&plan, 1, 0, prompt, true), 1, 64);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_EQ(used(), kBlocksPerSequence) << "the snapshot's are the sequence's";
  plan.Clear();
  *plan.add_start() = Start(2, 100, false);
  plan.mutable_start(0)->set_resume(1);
  AddChunk(&plan, 2, 64, std::span(prompt).subspan(64), true);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_EQ(used(), 2 * kBlocksPerSequence - 2);
  plan.Clear();
  plan.add_release(1);
  plan.add_drop_snapshots(1);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_EQ(used(), kBlocksPerSequence);
  plan.Clear();
  plan.add_release(2);
  ASSERT_TRUE(runner.Run(plan, experts_).ok());
  EXPECT_EQ(used(), 0);
}

TEST_F(PrefixTest, RefusesWhatContradictsItself) {
  const std::vector<TokenId> prompt = RandomTokens(100);
  const auto refusal = [&](const auto& change) {
    StepRunner runner = MakeRunner();
    v1::StepPlan plan;
    *plan.add_start() = Start(1, 100);
    AddSave(AddChunk(&plan, 1, 0, std::span(prompt).first(70), false), 1, 64);
    CHECK_OK(runner.Run(plan, experts_).status());
    plan.Clear();
    *plan.add_start() = Start(2, 100);
    plan.mutable_start(0)->set_resume(1);
    plan.mutable_start(0)->mutable_resumed_tokens()->Add(prompt.begin(), prompt.begin() + 64);
    AddChunk(&plan, 2, 64, std::span(prompt).subspan(64), true);
    AddChunk(&plan, 1, 70, std::span(prompt).subspan(70), true);
    change(&plan);
    return std::string(StdView(runner.Run(plan, experts_).status().message()));
  };
  using testing::HasSubstr;
  EXPECT_EQ(refusal([](v1::StepPlan* plan) {}), "");
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->mutable_start(0)->set_resume(2); }), HasSubstr("no snapshot 2"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->add_drop_snapshots(1); }), HasSubstr("no snapshot 1"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->mutable_start(0)->set_kv_blocks(1); }), HasSubstr("kv_blocks"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->mutable_start(0)->set_want_prompt_logprobs(true); }),
              HasSubstr("scores"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->mutable_start(0)->clear_resumed_tokens(); }),
              HasSubstr("resumed_tokens"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) { plan->mutable_chunks(0)->set_position(0); }), HasSubstr("stands at 64"));
  const auto save = [&](uint64_t id, int position) {
    return refusal([=](v1::StepPlan* plan) { AddSave(plan->mutable_chunks(0), id, position); });
  };
  EXPECT_EQ(save(2, 96), "");
  EXPECT_THAT(save(0, 96), HasSubstr("snapshot 0"));
  EXPECT_THAT(save(1, 96), HasSubstr("saved twice"));
  EXPECT_THAT(save(2, 64), HasSubstr("saves at 64"));
  EXPECT_THAT(save(2, 128), HasSubstr("saves at 128"));
  EXPECT_THAT(save(2, 90), HasSubstr("saves at 90"));
  EXPECT_THAT(refusal([](v1::StepPlan* plan) {
                for (uint64_t id = 2; id <= kSnapshotsMax + 1; ++id) AddSave(plan->mutable_chunks(0), id, 96);
              }),
              HasSubstr("there is memory for"));
}

}  // namespace
}  // namespace braid
