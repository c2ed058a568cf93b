#include "model/forward.h"

#include <cmath>
#include <cstring>

#include "base/count_allocations.h"
#include "model/forward_fixture.h"
#include "model/random_model.h"

namespace braid {
namespace {

using Kind = ModelConfig::LayerKind;

// A small one.
struct TinyModel : RandomModel {
  explicit TinyModel(DType type, bool moe = true, bool panels = true) : RandomModel(Shape(type, moe), type, panels) {}

  static ModelConfig Shape(DType type, bool moe) {
    ModelConfig config;
    const bool k_quant = Info(type).elements == 256;
    config.architecture = moe ? "lfm2moe" : "lfm2";
    config.model_dim = k_quant ? 256 : 64;
    config.vocab_size = 50;
    config.layers = {Kind::kConv, Kind::kAttention, Kind::kConv, Kind::kAttention, Kind::kConv};
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = config.model_dim / 4;
    config.dense_ffn_dim = k_quant ? 256 : 96;
    config.dense_layers = moe ? 1 : 5;
    config.experts = moe ? 6 : 0;
    config.experts_per_token = moe ? 3 : 0;
    config.expert_ffn_dim = k_quant ? 256 : 32;
    config.context_tokens_max = 512;
    return config;
  }
};

class ForwardOfType : public testing::TestWithParam<DType> {};

TEST_P(ForwardOfType, GivesTheSameBitsHoweverThePromptIsCutOnAnyThreads) {
  const TinyModel model(GetParam());
  const std::vector<TokenId> tokens = model.Tokens(70, 1);
  ForwardFixture reference(&model.config, &model.tensors);
  const std::vector<float> whole = reference.Logits(tokens, 70);
  for (float value : whole) ASSERT_TRUE(std::isfinite(value));
  for (int threads : {1, 3}) {
    ForwardFixture fixture(&model.config, &model.tensors, threads);
    for (int piece : {1, 3, 5, 31, 32, 33, 64}) {
      ASSERT_EQ(fixture.Logits(tokens, piece), whole) << Name(GetParam()) << " by " << piece << " on " << threads;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, ForwardOfType, testing::ValuesIn(kAllDTypes),
                         [](const auto& info) { return std::string(Name(info.param)); });

// The norm of the differences as a share of the norm.
double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

// Panels hold the same weights; what differs is that activations are quantised: a step of 1/127 of the largest of 32,
// and a routing that flips now and then.
TEST(Forward, IsInPanelsCloseToTheFloatsOfTheSameWeights) {
  for (DType type : kAllDTypes) {
    if (!HasPanels(type)) continue;
    const TinyModel rows(type, true, false), panels(type);
    const std::vector<TokenId> tokens = rows.Tokens(70, 1);
    ForwardFixture in_rows(&rows.config, &rows.tensors), in_panels(&panels.config, &panels.tensors);
    const std::vector<float> want = in_rows.Logits(tokens, 70), got = in_panels.Logits(tokens, 70);
    EXPECT_NE(got, want) << Name(type);
    EXPECT_LT(RelativeError(got, want), 0.1) << Name(type);
  }
}

TEST(Forward, GivesWithInt8KeysAndValuesTheSameBitsHoweverThePromptIsCut) {
  const TinyModel model(DType::kF32);
  const std::vector<TokenId> tokens = model.Tokens(70, 1);
  const auto logits = [&](KvType type, int threads, int piece) {
    ForwardFixture fixture(&model.config, &model.tensors, threads, 64, type);
    return fixture.Logits(tokens, piece);
  };
  const std::vector<float> whole = logits(KvType::kInt8, 1, 70), bf16 = logits(KvType::kBFloat16, 1, 70);
  EXPECT_NE(whole, bf16);
  EXPECT_LT(RelativeError(whole, bf16), 0.02);  // half a 127th of the largest of a head, in keys and in values
  for (int threads : {1, 3})
    for (int piece : {1, 31, 33}) EXPECT_EQ(logits(KvType::kInt8, threads, piece), whole) << piece << " on " << threads;
}

TEST(Forward, GivesTheSameBitsAtEveryBoundary) {
  const TinyModel model(DType::kF32);
  const std::vector<TokenId> tokens = model.Tokens(40, 2);
  ForwardFixture fixture(&model.config, &model.tensors, 2);
  const std::vector<float> whole = fixture.Logits(tokens, 40);
  const int V = model.config.vocab_size;
  for (int cut = 1; cut < 40; ++cut) {
    SequenceCache cache = fixture.NewSequence(40);
    const std::span<const TokenId> all = tokens;
    const Chunk first{&cache, 0, all.first(cut), Chunk::Logits::kNone};
    const Chunk second{&cache, cut, all.subspan(cut), Chunk::Logits::kLast};
    EXPECT_TRUE(fixture.Step({&first, 1}).empty());
    const std::vector<float> last = fixture.Step({&second, 1});
    ASSERT_EQ(last, std::vector<float>(whole.end() - V, whole.end())) << cut;
  }
}

TEST(Forward, GivesASequenceTheSameBitsInAnyCompany) {
  const TinyModel model(DType::kQ4_0);
  const int V = model.config.vocab_size;
  ForwardFixture alone(&model.config, &model.tensors);
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::vector<float>> want;
  for (int i = 0; i < 5; ++i) {
    prompts.push_back(model.Tokens(3 + 11 * i, 10 + i));
    want.push_back(alone.Logits(prompts[i], 100));
  }
  // All five in one step, of different lengths but for their last token, which is decoded in a second step.
  ForwardFixture fixture(&model.config, &model.tensors, 3);
  std::deque<SequenceCache> caches;
  std::vector<Chunk> prefill, decode;
  for (const std::vector<TokenId>& prompt : prompts) {
    const int n = static_cast<int>(prompt.size());
    const std::span<const TokenId> tokens = prompt;
    SequenceCache* cache = &caches.emplace_back(fixture.NewSequence(n));
    prefill.push_back({cache, 0, tokens.first(n - 1), Chunk::Logits::kLast});
    decode.push_back({cache, n - 1, tokens.last(1), Chunk::Logits::kLast});
  }
  const std::vector<float> first = fixture.Step(prefill), second = fixture.Step(decode);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const float* before_last = want[i].data() + want[i].size() - 2 * V;
    EXPECT_EQ(std::memcmp(&first[i * V], before_last, V * sizeof(float)), 0) << i;
    EXPECT_EQ(std::memcmp(&second[i * V], before_last + V, V * sizeof(float)), 0) << i;
  }
}

TEST(Forward, GoesOnFromAnEarlierPositionAsIfNothingHadHappened) {
  const TinyModel model(DType::kF32);
  const int V = model.config.vocab_size, back = ShortRunTokens(model.config);
  const std::vector<TokenId> tokens = model.Tokens(50, 3), wrong = model.Tokens(back, 4);
  ForwardFixture fixture(&model.config, &model.tensors, 2);
  const std::vector<float> whole = fixture.Logits(tokens, 50);
  const std::span<const TokenId> all = tokens;
  SequenceCache cache = fixture.NewSequence(50);
  const Chunk prefix{&cache, 0, all.first(30), Chunk::Logits::kNone};
  fixture.Step({&prefix, 1});
  for (int i = 0; i < back; ++i) {  // steps in flight that are then discarded
    const Chunk decode{&cache, 30 + i, std::span<const TokenId>(wrong).subspan(i, 1), Chunk::Logits::kNone};
    fixture.Step({&decode, 1});
  }
  const Chunk rest{&cache, 30, all.subspan(30), Chunk::Logits::kAll};
  EXPECT_EQ(fixture.Step({&rest, 1}), std::vector<float>(whole.begin() + 30 * V, whole.end()));
}

TEST(Forward, RunsDenseModels) {
  const TinyModel model(DType::kBF16, /*moe=*/false);
  const std::vector<TokenId> tokens = model.Tokens(40, 5);
  ForwardFixture fixture(&model.config, &model.tensors, 2);
  EXPECT_EQ(fixture.Logits(tokens, 40), fixture.Logits(tokens, 1));
}

// Counts the calls and records their shape.
class RecordingExperts : public ExpertRunner {
 public:
  absl::Status Run(const RoutedBatch& batch) override {
    layers.push_back(batch.layer);
    rows += batch.T;
    return fail_at == batch.layer ? absl::AbortedError("peer lost") : absl::OkStatus();
  }
  std::vector<int> layers;
  int rows = 0;
  int fail_at = -1;
};

TEST(Forward, RunsTheExpertsOfEveryLayerAlsoWithoutRows) {
  const TinyModel model(DType::kF32);
  ForwardFixture fixture(&model.config, &model.tensors);
  RecordingExperts experts;
  std::vector<float> logits(1);
  EXPECT_TRUE(fixture.engine().Run({}, experts, &logits).ok());
  EXPECT_EQ(experts.layers, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(experts.rows, 0);
  EXPECT_TRUE(logits.empty());
}

TEST(Forward, PassesOnWhatTheExpertsReport) {
  const TinyModel model(DType::kF32);
  ForwardFixture fixture(&model.config, &model.tensors);
  RecordingExperts experts;
  experts.fail_at = 2;
  std::vector<float> logits;
  EXPECT_EQ(fixture.engine().Run({}, experts, &logits).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(experts.layers, (std::vector<int>{1, 2}));
}

TEST(Forward, RefusesTokensOutsideTheVocabulary) {
  const TinyModel model(DType::kF32);
  ForwardFixture fixture(&model.config, &model.tensors);
  SequenceCache cache = fixture.NewSequence(1);
  std::vector<float> logits;
  for (const TokenId token : {-1, model.config.vocab_size}) {
    const Chunk chunk{&cache, 0, {&token, 1}};
    EXPECT_EQ(fixture.engine().Run({&chunk, 1}, fixture.experts(), &logits).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(LocalExperts, CountsTheRowsOfEachExpert) {
  const TinyModel model(DType::kF32);
  ForwardFixture fixture(&model.config, &model.tensors);
  fixture.Logits(model.Tokens(10, 6), 10);
  uint64_t sum = 0;
  for (uint64_t rows : fixture.experts().TakeExpertRows()) sum += rows;
  EXPECT_EQ(sum, 10u * 4 * 3);  // tokens, MoE layers, experts per token
  for (uint64_t rows : fixture.experts().TakeExpertRows()) EXPECT_EQ(rows, 0u);
}

TEST(LocalExperts, GiveATokenTheSameBitsInBatchesOfAnySize) {
  const TinyModel model(DType::kQ8_0);
  const int T = 1100, D = model.config.model_dim, K = 3, E = model.config.experts;  // more than two passes
  ThreadPool pool(2);
  GatedExpertFfn ffn(&model.config, &model.tensors, &pool);
  LocalExperts experts(E, &ffn, &pool);
  RandomNumbers random(16);
  const std::vector<float> x = random.Floats(T * D), weights = random.Floats(T * K);
  std::vector<int32_t> chosen;
  for (int t = 0; t < T; ++t) {
    const int first = random.Below(E);
    for (int k = 0; k < K; ++k) chosen.push_back((first + 2 * k * k + k) % E);
  }
  std::vector<float> together(T * D), alone(D);
  ASSERT_TRUE(experts.Run({2, T, D, K, x.data(), chosen.data(), weights.data(), together.data()}).ok());
  for (int t = 0; t < T; t += 37) {
    ASSERT_TRUE(experts.Run({2, 1, D, K, &x[t * D], &chosen[t * K], &weights[t * K], alone.data()}).ok());
    ASSERT_EQ(std::memcmp(alone.data(), &together[t * D], D * sizeof(float)), 0) << t;
  }
}

TEST(HostStates, KeepsBlocksAndLayersApart) {
  const TinyModel model(DType::kF32);
  HostStates states(model.config, {.blocks = 3});
  const size_t bytes = states.kv_layer_bytes();
  int value = 0;
  for (int layer = 0; layer < 2; ++layer)
    for (int block = 0; block < 3; ++block)
      std::fill_n(states.kv(layer, block), bytes, static_cast<std::byte>(++value));
  value = 0;
  for (int layer = 0; layer < 2; ++layer) {
    for (int block = 0; block < 3; ++block) {
      ++value;
      for (size_t end : {size_t{0}, bytes - 1}) EXPECT_EQ(states.kv(layer, block)[end], static_cast<std::byte>(value));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(states.kv(layer, block)) % 64, 0u);
    }
  }
  EXPECT_EQ(KvBlockBytes(model.config), 2 * bytes);
  EXPECT_LT(KvBlockBytes(model.config, KvType::kInt8), 2 * bytes);
  EXPECT_EQ(bytes, KvArena::BlockBytes(KvType::kBFloat16, model.config.kv_heads, model.config.head_dim));
}

TEST(HostStates, CopiesTheColumnsBeforeAPosition) {
  const TinyModel model(DType::kF32);
  const int D = model.config.model_dim, layers = model.config.conv_layer_count();
  HostStates states(model.config, {.sequences = 3, .snapshots = 2});
  const auto fill = [&](int32_t slot, float value) {
    for (int layer = 0; layer < layers; ++layer)
      for (int i = 0; i < kConvColumns * D; ++i)
        states.conv_columns(layer, slot)[i] = value + static_cast<float>(i / D);
  };
  for (const int position : {0, 1, 2, 17, 32}) {
    fill(1, 100), fill(2, 200);
    states.Save(1, position, 4);
    states.Restore(4, position, 2);
    for (int layer = 0; layer < layers; ++layer) {
      for (int column = 0; column < kConvColumns; ++column) {
        bool before = false;
        for (int p = std::max(0, position - (model.config.conv_taps - 1)); p < position; ++p)
          before |= p % kConvColumns == column;
        const float expected = static_cast<float>(column + (before ? 100 : 200));
        EXPECT_EQ(states.conv_columns(layer, 2)[column * D], expected) << position << ": " << column;
        EXPECT_EQ(states.conv_columns(layer, 2)[column * D + D - 1], expected);
      }
    }
  }
  EXPECT_EQ(ConvColumnsBytes(model.config), sizeof(float) * layers * kConvColumns * D);
  EXPECT_EQ(ConvCopyBytes(model.config), sizeof(float) * layers * (model.config.conv_taps - 1) * D);
}

// A file may give every matrix of an expert a type of its own.
TEST(Forward, RunsExpertsWhoseMatricesLieInDifferentLayouts) {
  for (int kept : {0, 1, 2}) {
    TinyModel model(DType::kQ8_0);
    for (LayerTensors& layer : model.tensors.layers) {
      for (FfnTensors& expert : layer.experts) {
        TensorView* const matrices[] = {&expert.gate, &expert.up, &expert.down};
        TensorView& matrix = *matrices[kept];
        matrix = model.Add(DType::kF16, static_cast<int>(matrix.rows), static_cast<int>(matrix.columns));
      }
    }
    const std::vector<TokenId> tokens = model.Tokens(20, 4);
    ForwardFixture fixture(&model.config, &model.tensors, 2);
    const std::vector<float> whole = fixture.Logits(tokens, 20);
    for (float value : whole) ASSERT_TRUE(std::isfinite(value));
    EXPECT_EQ(fixture.Logits(tokens, 3), whole) << kept;
  }
}

TEST(Forward, AllocatesNothingInAStepLikeTheOneBefore) {
  for (DType type : {DType::kQ4_0, DType::kBF16}) {
    const TinyModel model(type);
    ForwardFixture fixture(&model.config, &model.tensors, 2);
    const std::vector<TokenId> tokens = model.Tokens(40, 3);
    SequenceCache a = fixture.NewSequence(64), b = fixture.NewSequence(64);
    std::vector<float> logits;
    size_t before = 0;
    for (int step = 0; step < 3; ++step) {
      const std::span<const TokenId> all = tokens;
      const Chunk chunks[] = {{&a, 0, all.first(37), Chunk::Logits::kLast},
                              {&b, step, all.subspan(step, 1), Chunk::Logits::kLast}};
      before = allocations;
      ASSERT_TRUE(fixture.engine().Run(chunks, fixture.experts(), &logits).ok());
    }
    EXPECT_EQ(allocations - before, 0u) << Name(type);
  }
}

}  // namespace
}  // namespace braid
