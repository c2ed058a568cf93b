#include "model/checksum_engine.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <string>

#include "kernels/random_weights.h"
#include "model/forward_fixture.h"

namespace braid {
namespace {

// The shape that tests/checksum_model.py gives it.
ModelConfig Config() {
  using Kind = ModelConfig::LayerKind;
  ModelConfig config;
  config.architecture = "checksum";
  config.model_dim = config.head_dim = config.expert_ffn_dim = 8;
  config.vocab_size = 1792;
  config.checksum_tokens = 1698;
  config.layers = {Kind::kConv, Kind::kAttention, Kind::kConv, Kind::kAttention};
  config.heads = config.kv_heads = 1;
  config.experts = 8;
  config.experts_per_token = 4;
  config.context_tokens_max = 4096;
  EXPECT_TRUE(config.Validate().ok()) << config.Validate();
  return config;
}

std::vector<TokenId> Prompt(int n, uint32_t seed) {
  RandomNumbers numbers(seed);
  std::vector<TokenId> tokens(n);
  for (TokenId& token : tokens) token = numbers.Below(Config().vocab_size);
  return tokens;
}

TokenId Chosen(std::span<const float> row) {
  return static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
}

class ChecksumEngineTest : public testing::Test {
 protected:
  using BeforeStep = std::function<void(int position, SequenceCache& cache)>;

  // The answer to `prompt`, prefilled in pieces and then decoded. `before` may see and spoil what each step starts
  // from.
  std::vector<TokenId> Answer(std::span<const TokenId> prompt, int count, int piece = 16,
                              ExpertRunner* experts = nullptr, const BeforeStep& before = {}) {
    const int n = static_cast<int>(prompt.size()), end = n + count - 1;
    std::vector<TokenId> ids(prompt.begin(), prompt.end());
    ForwardFixture& fixture = *fixture_;
    SequenceCache cache = fixture.NewSequence(n + count);
    for (int position = 0; position < end;) {
      const int size = position < n ? std::min(piece, n - position) : 1;
      if (before) before(position, cache);
      const Chunk chunk{&cache, position, std::span<const TokenId>(ids).subspan(position, size)};
      const std::vector<float> logits =
          fixture.Step({&chunk, 1}, experts != nullptr ? *experts : static_cast<ExpertRunner&>(fixture.experts()));
      position += size;
      if (position >= n) ids.push_back(Chosen(logits));
    }
    return {ids.begin() + n, ids.end()};
  }

  void UseThreads(int threads) { fixture_ = std::make_unique<ForwardFixture>(&config_, &tensors_, threads); }

  const ModelConfig config_ = Config();
  const ModelTensors tensors_{};
  std::unique_ptr<ForwardFixture> fixture_ = std::make_unique<ForwardFixture>(&config_, &tensors_);
};

TEST_F(ChecksumEngineTest, AnswersAsTheOracleInPythonDoes) {
  EXPECT_EQ(Answer(std::vector<TokenId>{5, 6, 7}, 12),
            (std::vector<TokenId>{123, 1122, 539, 1324, 1503, 678, 1202, 469, 397, 245, 223, 314}));
  std::vector<TokenId> hundred(100);
  for (int i = 0; i < 100; ++i) hundred[i] = i;
  EXPECT_EQ(Answer(hundred, 8), (std::vector<TokenId>{984, 333, 1387, 675, 662, 742, 1225, 517}));
}

TEST_F(ChecksumEngineTest, AnswersTheSameHoweverThePromptIsCutOnAnyThreads) {
  const std::vector<TokenId> prompt = Prompt(150, 1);
  const std::vector<TokenId> expected = Answer(prompt, 20, 150);
  for (const int threads : {1, 3}) {
    UseThreads(threads);
    for (const int piece : {1, 2, 15, 16, 17, 32, 149}) EXPECT_EQ(Answer(prompt, 20, piece), expected) << piece;
  }
}

TEST_F(ChecksumEngineTest, AnswersTheSameInAnyCompany) {
  std::deque<SequenceCache> caches;
  std::vector<Chunk> chunks;
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 6; ++i) prompts.push_back(Prompt(1 + 23 * i, i));
  for (const std::vector<TokenId>& prompt : prompts) {
    caches.push_back(fixture_->NewSequence(static_cast<int>(prompt.size())));
    chunks.push_back({&caches.back(), 0, prompt});
  }
  const std::vector<float> logits = fixture_->Step(chunks);
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(Chosen(std::span(logits).subspan(i * config_.vocab_size, config_.vocab_size)),
              Answer(prompts[i], 1).front());
  }
}

TEST_F(ChecksumEngineTest, GoesOnFromAnEarlierPositionAsIfNothingHadHappened) {
  const std::vector<TokenId> prompt = Prompt(40, 2), wrong = Prompt(kConvColumns, 3);
  const std::vector<TokenId> expected = Answer(prompt, 30);
  const int back = ShortRunTokens(config_);
  const auto discard_steps = [&](int position, SequenceCache& cache) {
    for (int i = 0; position >= 40 && i < std::min(back, 69 - position); ++i) {
      const Chunk chunk{&cache, position + i, std::span(wrong).subspan(i, 1)};
      fixture_->Step({&chunk, 1});
    }
  };
  EXPECT_EQ(Answer(prompt, 30, 16, nullptr, discard_steps), expected);
}

TEST_F(ChecksumEngineTest, RunsTheExpertsOfEveryLayerAlsoWithoutRows) {
  std::vector<float> logits(1);
  EXPECT_TRUE(fixture_->engine().Run({}, fixture_->experts(), &logits).ok());
  EXPECT_TRUE(logits.empty());
  for (const uint64_t rows : fixture_->experts().TakeExpertRows()) EXPECT_EQ(rows, 0u);
  Answer(Prompt(200, 4), 1);
  for (const uint64_t rows : fixture_->experts().TakeExpertRows()) EXPECT_GT(rows, 200u * 4 * 4 / 8 * 3 / 4);
}

TEST_F(ChecksumEngineTest, GivesAWrongAnswerForNumbersThatAreNone) {
  const std::vector<float> x = {-1, NAN, INFINITY, 1e30f, 0.5f, 16777216, -0.0f, 0};
  const std::vector<int32_t> experts = {3}, offsets = {0, 1};
  std::vector<float> y(8), y0(8);
  const std::vector<float> zeros(8);
  const float* const states[] = {x.data(), zeros.data()};
  const int32_t first = 0, second = 1;
  fixture_->engine().experts().Run({0, 1, 8, experts, offsets, states, &first, y.data()});
  fixture_->engine().experts().Run({0, 1, 8, experts, offsets, states, &second, y0.data()});
  EXPECT_EQ(y, y0);
}

// What a server could get wrong. Each case draws where, in one position of a sequence of 40 + 40 tokens, and tells from
// which position on tokens must be other ones.

constexpr int kPrompt = 40, kAnswer = 40, kEnd = kPrompt + kAnswer - 1;  // positions that are run

// Spoils what one layer asks of its experts for one position.
class FaultyExperts : public ExpertRunner {
 public:
  struct Row {
    int32_t* experts;       // (K)
    float* weights;         // (K)
    float* x;               // (D)
    const float* x_before;  // (D) of the call before
  };
  using Spoil = std::function<void(const Row& row)>;
  FaultyExperts(ExpertRunner* good, int layer, int position, Spoil spoil)
      : good_(good), layer_(layer), position_(position), spoil_(std::move(spoil)) {}

  void BeginStep(int position) { step_position_ = position; }

  absl::Status Run(const RoutedBatch& batch) override {
    std::vector<int32_t> experts(batch.experts, batch.experts + batch.T * batch.K);
    std::vector<float> weights(batch.weights, batch.weights + batch.T * batch.K);
    std::vector<float> x(batch.x, batch.x + batch.T * batch.D);
    const int row = position_ - step_position_;
    if (batch.layer == layer_ && row >= 0 && row < batch.T) {
      x_before_.resize(x.size());
      spoil_({&experts[row * batch.K], &weights[row * batch.K], &x[row * batch.D], &x_before_[row * batch.D]});
    }
    RoutedBatch spoiled = batch;
    spoiled.experts = experts.data();
    spoiled.weights = weights.data();
    spoiled.x = x.data();
    x_before_.assign(batch.x, batch.x + batch.T * batch.D);
    return good_->Run(spoiled);
  }

 private:
  ExpertRunner* const good_;
  const int layer_, position_;
  const Spoil spoil_;
  int step_position_ = 0;
  std::vector<float> x_before_;
};

class Sensitivity : public ChecksumEngineTest {
 protected:
  static constexpr int kTrials = 100;
  // Runs one faulty answer to `prompt`; returns it and sets the first position whose token must differ.
  using Trial =
      std::function<std::vector<TokenId>(const std::vector<TokenId>& prompt, RandomNumbers& random, int* from)>;

  // Every trial changes its answer, and of all tokens from the fault on at most 1 % are the right ones by chance.
  void ExpectEveryLaterTokenToDiffer(const Trial& trial) {
    RandomNumbers random(16);
    int later = 0, right = 0;
    for (int i = 0; i < kTrials; ++i) {
      const std::vector<TokenId> prompt = Prompt(kPrompt, 100 + i);
      const std::vector<TokenId> expected = Answer(prompt, kAnswer);
      int from = 0;
      const std::vector<TokenId> answer = trial(prompt, random, &from);
      const int first = std::max(0, from - (kPrompt - 1));
      ASSERT_NE(answer, expected) << "unnoticed at position " << from;
      for (int j = 0; j < first; ++j) ASSERT_EQ(answer[j], expected[j]) << "noticed too early";
      for (int j = first; j < kAnswer; ++j) right += answer[j] == expected[j];
      later += kAnswer - first;
    }
    EXPECT_GT(later, 0);
    EXPECT_LE(right * 100, later) << right << " of " << later;
  }

  void ExpectExpertFaultsToShow(const std::function<void(const FaultyExperts::Row&, RandomNumbers&)>& spoil) {
    ExpectEveryLaterTokenToDiffer([&](const std::vector<TokenId>& prompt, RandomNumbers& random, int* from) {
      *from = random.Below(kEnd - 5);
      FaultyExperts experts(&fixture_->experts(), random.Below(4), *from, [&](const auto& row) { spoil(row, random); });
      return Answer(prompt, kAnswer, 16, &experts, [&](int position, SequenceCache&) { experts.BeginStep(position); });
    });
  }

  // Spoils what lies in memory, at the start of the step of some position of the answer.
  void ExpectMemoryFaultsToShow(const std::function<void(int position, SequenceCache&, RandomNumbers&)>& spoil) {
    ExpectEveryLaterTokenToDiffer([&](const std::vector<TokenId>& prompt, RandomNumbers& random, int* from) {
      *from = kPrompt + random.Below(kAnswer - 5);
      return Answer(prompt, kAnswer, 16, nullptr, [&](int position, SequenceCache& cache) {
        if (position == *from) spoil(position, cache, random);
      });
    });
  }

  float* Key(int layer, const SequenceCache& cache, int position) {
    return reinterpret_cast<float*>(fixture_->states().kv(layer, cache.blocks[position / kKvBlockTokens])) +
           position % kKvBlockTokens * 8;
  }
  float* Value(int layer, const SequenceCache& cache, int position) {
    return Key(layer, cache, position) + kKvBlockTokens * 8;
  }
};

TEST_F(Sensitivity, ToALostContribution) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers& random) { row.weights[random.Below(4)] = 0; });
}

TEST_F(Sensitivity, ToAContributionCountedTwice) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers& random) { row.weights[random.Below(4)] *= 2; });
}

TEST_F(Sensitivity, ToTwoContributionsOfATokenSwapped) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers& random) {
    const int k = random.Below(4);
    std::swap(row.experts[k], row.experts[(k + 1 + random.Below(3)) % 4]);
  });
}

TEST_F(Sensitivity, ToAnotherExpertsContribution) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers& random) {
    int32_t other = random.Below(8);
    while (std::count(row.experts, row.experts + 4, other) > 0) other = (other + 1) % 8;
    row.experts[random.Below(4)] = other;
  });
}

TEST_F(Sensitivity, ToContributionsForAnEarlierState) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers&) { std::copy_n(row.x_before, 8, row.x); });
}

TEST_F(Sensitivity, ToAContributionWithOneNumberOff) {
  ExpectExpertFaultsToShow([](const auto& row, RandomNumbers& random) { row.x[random.Below(8)] += 1; });
}

TEST_F(Sensitivity, ToAStaleKeyAnywhere) {
  ExpectMemoryFaultsToShow([&](int position, SequenceCache& cache, RandomNumbers& random) {
    const int layer = random.Below(2), from = random.Below(position),
              to = (from + 1 + random.Below(position - 1)) % position;
    std::copy_n(Key(layer, cache, from), 8, Key(layer, cache, to));
    std::copy_n(Value(layer, cache, from), 8, Value(layer, cache, to));
  });
}

TEST_F(Sensitivity, ToAPositionThatWasNeverRun) {
  ExpectMemoryFaultsToShow([&](int position, SequenceCache& cache, RandomNumbers& random) {
    const int layer = random.Below(2), at = random.Below(position);
    std::fill_n(Key(layer, cache, at), 8, 0.0f);
    std::fill_n(Value(layer, cache, at), 8, 0.0f);
  });
}

TEST_F(Sensitivity, ToValuesThatAreAnothers) {
  ExpectMemoryFaultsToShow([&](int position, SequenceCache& cache, RandomNumbers& random) {
    const int layer = random.Below(2);  // its values are looked up here and there, so all of them have to be off
    for (int s = 0; s < position; ++s) std::fill_n(Value(layer, cache, s), 8, 7.0f);
  });
}

TEST_F(Sensitivity, ToTwoBlocksSwapped) {
  ExpectMemoryFaultsToShow(
      [](int, SequenceCache& cache, RandomNumbers&) { std::swap(cache.blocks[0], cache.blocks[1]); });
}

TEST_F(Sensitivity, ToAStaleConvColumn) {
  ExpectMemoryFaultsToShow([&](int position, SequenceCache& cache, RandomNumbers& random) {
    float* const columns = fixture_->states().conv_columns(random.Below(2), cache.conv_slot);
    const int stale = position - 1 - random.Below(2);
    std::copy_n(columns + (stale - 5) % kConvColumns * 8, 8, columns + stale % kConvColumns * 8);
  });
}

TEST_F(Sensitivity, ToATokenOfThePromptAndItsPlace) {
  ExpectEveryLaterTokenToDiffer([&](std::vector<TokenId> prompt, RandomNumbers& random, int* from) {
    *from = kPrompt - 1;
    const int a = random.Below(kPrompt - 1);
    std::swap(prompt[a], prompt[a + 1 + random.Below(kPrompt - 1 - a)]);
    return Answer(prompt, kAnswer);
  });
}

}  // namespace
}  // namespace braid
