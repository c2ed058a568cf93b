#include "model/cuda/device_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <set>
#include <string>

#include "base/rng.h"
#include "base/status.h"
#include "kernels/half.h"
#include "model/cuda/engine_fixture.h"
#include "model/forward_fixture.h"
#include "model/model_file.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/simt.h"

namespace braid::gpu {
namespace {

// Of the sequences compared with the CPU: ThreadSanitizer takes its time.
constexpr int kTokens = simt::kManyThreads ? 40 : 12;

using testing::AllOf;
using testing::HasSubstr;
using Logits = Chunk::Logits;

std::string Message(const absl::Status& status) { return std::string(StdView(status.message())); }

// The norm of the differences as a share of the norm.
double RelativeError(std::span<const float> got, std::span<const float> want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

TokenId Best(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Every device that a test opens is a fresh one.
template <typename Base>
class OnFakeDevice : public Base {
 protected:
  OnFakeDevice() { fake::Reset(); }
};
using DeviceEngineTest = OnFakeDevice<testing::Test>;
using DeviceEngineOfType = OnFakeDevice<testing::TestWithParam<DType>>;

TEST_P(DeviceEngineOfType, InFloat32ComputesWhatTheCpuComputes) {
  for (const bool moe : {true, false}) {
    const TinyModel model(GetParam(), moe);
    const std::vector<TokenId> tokens = model.Tokens(kTokens, 1);
    const std::vector<float> want = ForwardFixture(&model.config, &model.tensors).Logits(tokens, kTokens);
    DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kF32));
    EXPECT_LT(RelativeError(device.Logits(tokens, kTokens), want), 1e-4);
  }
}

// Where an activation is rounded, a routing flips now and then: of a model with experts, most rows.
TEST_P(DeviceEngineOfType, InBFloat16IsWithinItsRounding) {
  for (const bool moe : {true, false}) {
    const TinyModel model(GetParam(), moe);
    const std::vector<TokenId> tokens = model.Tokens(kTokens, 1);
    const std::vector<float> want = ForwardFixture(&model.config, &model.tensors).Logits(tokens, kTokens);
    DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
    const std::vector<float> got = device.Logits(tokens, kTokens);
    const auto V = static_cast<size_t>(model.config.vocab_size);
    std::vector<double> errors;
    for (size_t at = 0; at < want.size(); at += V)
      errors.push_back(RelativeError(std::span(got).subspan(at, V), std::span(want).subspan(at, V)));
    std::sort(errors.begin(), errors.end());
    EXPECT_LT(errors[errors.size() / 2], 0.02);
    if (!moe) {
      EXPECT_LT(errors.back(), 0.04);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceEngineOfType,
                         testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ8_0),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_F(DeviceEngineTest, MultipliesFastWhereAskedTo) {
  const TinyModel model(DType::kBF16, /*moe=*/false);
  const std::vector<TokenId> tokens = model.Tokens(20, 1);
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  DeviceFixture exact(&model.config, &model.tensors, options);
  options.exact = false;
  DeviceFixture fast(&model.config, &model.tensors, options);
  const std::vector<float> want = exact.Logits(tokens, 20), got = fast.Logits(tokens, 20);
  EXPECT_LT(RelativeError(got, want), 0.02);
  EXPECT_NE(got, want) << "cuBLASLt's sums have another order";
  EXPECT_EQ(fast.Logits(tokens, 20), got);

  // What is fast gives the promise up, and nothing else does.
  EXPECT_EQ(exact.Logits(tokens, 7), want);
  const std::vector<float> cut = fast.Logits(tokens, 7);
  EXPECT_NE(cut, got) << "the fake's sums depend on the rows beside";
  EXPECT_LT(RelativeError(cut, got), 0.02);
}

// No product is cuBLASLt's: the engine does the same as without --fast.
TEST_F(DeviceEngineTest, StaysExactWhereCublasLtHasNoProduct) {
  const TinyModel model(DType::kQ4_0);
  const std::vector<TokenId> tokens = model.Tokens(20, 1);
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  DeviceFixture exact(&model.config, &model.tensors, options);
  options.exact = false;
  DeviceFixture fast(&model.config, &model.tensors, options);
  EXPECT_EQ(fast.Logits(tokens, 7), exact.Logits(tokens, 20));
}

// Of a step that is the same but for what it was launched with, the bits are the same also when it is fast.
TEST_F(DeviceEngineTest, MultipliesFastInGraphsToo) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(15, 3);
  const auto decode = [&](bool graphs) {
    DeviceEngineOptions options = SmallOptions(DType::kBF16);
    options.exact = false;
    options.graphs = graphs;
    DeviceFixture device(&model.config, &model.tensors, options);
    std::vector<SequenceCache> caches;
    for (int s = 0; s < 3; ++s) caches.push_back(device.NewSequence(8));
    std::vector<float> all;
    for (int step = 0; step < 5; ++step) {
      std::vector<Chunk> chunks;
      for (int s = 0; s < 3; ++s) chunks.push_back({&caches[s], step, std::span(tokens).subspan(3 * step + s, 1)});
      const std::vector<float> logits = device.Step(chunks);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    EXPECT_EQ(device.runner().graphs().size(), graphs ? 1 : 0);
    return all;
  };
  EXPECT_EQ(decode(true), decode(false));
}

// A weight is off by at most 1/16, most of them by less and in either direction.
TEST_F(DeviceEngineTest, GoesOnWithoutAGraphThatThereIsNoMemoryFor) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(5, 3);
  const auto decode = [&](bool short_of_memory) {
    DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
    SequenceCache cache = device.NewSequence(8);
    std::vector<float> all;
    for (int step = 0; step < 5; ++step) {
      if (short_of_memory && step == 1) fake::FailMalloc(1);  // when the graph is made
      const Chunk chunk{&cache, step, std::span(tokens).subspan(static_cast<size_t>(step), 1)};
      const std::vector<float> logits = device.Step({&chunk, 1});
      all.insert(all.end(), logits.begin(), logits.end());
      EXPECT_EQ(device.engine().graph_launches() > 0, step > 0 && !short_of_memory);
    }
    return all;
  };
  EXPECT_EQ(decode(true), decode(false));
}

TEST_F(DeviceEngineTest, QuantisesWeightsToFp8WhereAskedTo) {
  const TinyModel model(DType::kBF16, /*moe=*/false);
  const std::vector<TokenId> tokens = model.Tokens(20, 1);
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  DeviceFixture whole(&model.config, &model.tensors, options);
  options.fp8 = true;
  DeviceFixture quantized(&model.config, &model.tensors, options);
  const double error = RelativeError(quantized.Logits(tokens, 20), whole.Logits(tokens, 20));
  EXPECT_GT(error, 0.005);
  EXPECT_LT(error, 0.15);
  using Part = MemoryPlan::Part;
  EXPECT_LT(quantized.engine().memory().bytes_of(Part::kWeights), whole.engine().memory().bytes_of(Part::kWeights));

  const TinyModel four_bits(DType::kQ4_0);
  const absl::Status status =
      DeviceEngine::Create(*OpenDevice(0), &four_bits.config, &four_bits.tensors, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("quantised already"));
}

DeviceEngineOptions Fp8Options() {
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  options.fp8 = options.fp8_rows = true;
  return options;
}

// Rows lose by it about as much as weights do: both are rounded to the same four bits.
TEST_F(DeviceEngineTest, MultipliesFp8ByFp8WhereAskedTo) {
  const TinyModel model(DType::kBF16, /*moe=*/false);
  const std::vector<TokenId> tokens = model.Tokens(20, 1);
  DeviceEngineOptions options = Fp8Options();
  DeviceFixture fp8(&model.config, &model.tensors, options);
  options.fp8_rows = false;
  DeviceFixture weights(&model.config, &model.tensors, options);
  options.fp8 = false;
  DeviceFixture whole(&model.config, &model.tensors, options);
  const std::vector<float> got = fp8.Logits(tokens, 20), near = weights.Logits(tokens, 20),
                           want = whole.Logits(tokens, 20);
  const double by_weights = RelativeError(near, want), by_rows = RelativeError(got, near);
  EXPECT_GT(by_rows, 0.5 * by_weights);
  EXPECT_LT(by_rows, 2 * by_weights);
  EXPECT_LT(RelativeError(got, want), 3 * by_weights);

  fake::SetCapability(8, 0);
  options = Fp8Options();
  const absl::Status status = DeviceEngine::Create(*OpenDevice(0), &model.config, &model.tensors, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("say --weights fp8 instead"));
}

// Prefilled by one, seven or all at once; decoded alone, beside others and in a graph.
TEST_F(DeviceEngineTest, GivesTheSameBitsInFp8) {
  const TinyModel model(DType::kBF16);
  constexpr int kSequences = 3, kPrompt = 9, kSteps = 3, kTokens = kPrompt + kSteps;
  DeviceFixture device(&model.config, &model.tensors, Fp8Options());
  const auto V = static_cast<size_t>(model.config.vocab_size);
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> alone;
  for (int s = 0; s < kSequences; ++s) {
    tokens.push_back(model.Tokens(kTokens, 200 + s));
    alone.push_back(device.Logits(tokens.back(), kTokens));
    for (const float value : alone.back()) ASSERT_TRUE(std::isfinite(value));
  }
  for (const int piece : {1, 7}) EXPECT_EQ(device.Logits(tokens[0], piece), alone[0]) << "by " << piece;
  std::vector<SequenceCache> caches;
  std::vector<Chunk> chunks;
  for (int s = 0; s < kSequences; ++s) caches.push_back(device.NewSequence(kTokens));
  for (int s = 0; s < kSequences; ++s) chunks.push_back({&caches[s], 0, std::span(tokens[s]).first(kPrompt)});
  for (int end = kPrompt; end <= kTokens; ++end) {
    const std::vector<float> logits = device.Step(chunks);
    ASSERT_EQ(logits.size(), kSequences * V);
    for (int s = 0; s < kSequences; ++s)
      EXPECT_TRUE(std::equal(logits.begin() + s * V, logits.begin() + (s + 1) * V, alone[s].begin() + (end - 1) * V))
          << s << " at " << end;
    chunks.clear();
    for (int s = 0; s < kSequences && end < kTokens; ++s)
      chunks.push_back({&caches[s], end, std::span(tokens[s]).subspan(end, 1)});
  }
  EXPECT_EQ(device.runner().graphs().size(), 2) << "of one row and of three";
}

// A model of which some layers are in four bits has their rows in bfloat16.
TEST_F(DeviceEngineTest, LeavesRowsForFourBitsAsTheyAre) {
  TinyModel model(DType::kBF16);
  const TinyModel four_bits(DType::kQ4_0);
  for (const size_t layer : {0, 3}) model.tensors.layers[layer] = four_bits.tensors.layers[layer];
  const std::vector<TokenId> tokens = model.Tokens(8, 5);
  DeviceFixture device(&model.config, &model.tensors, Fp8Options());
  const std::vector<float> whole = device.Logits(tokens, 8);
  for (const float value : whole) ASSERT_TRUE(std::isfinite(value));
  EXPECT_EQ(device.Logits(tokens, 3), whole);
}

// A runner that finds, once the step is done, that it had too little room.
TEST_F(DeviceEngineTest, RunsAStepAgainWhenItsExpertsAskForIt) {
  class Again : public ExpertRunner {
   public:
    explicit Again(LocalExperts* experts) : experts_(*experts) {}
    void BeginStep() { again_ = false; }
    bool may_run_again() const override { return !again_; }
    bool capturable() const override { return !again_; }
    absl::Status Enqueue(const RoutedRows& rows, cudaStream_t stream) override {
      if (again_) return experts_.Enqueue(rows, stream);
      return CudaError(cudaMemsetAsync(rows.y, 0x41, sizeof(float) * rows.T * rows.D, stream), "spoiling a step");
    }
    absl::Status Wait(cudaEvent_t event) override {
      RETURN_IF_ERROR(ExpertRunner::Wait(event));
      return std::exchange(again_, true) ? absl::OkStatus() : absl::ResourceExhaustedError("too little room");
    }

   private:
    LocalExperts& experts_;
    bool again_ = false;
  };
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(41, 7);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  const auto V = static_cast<size_t>(model.config.vocab_size);
  const std::vector<float> want = device.Logits(tokens, 41);
  Again again(&device.experts());
  SequenceCache cache = device.NewSequence(64);
  std::vector<float> got;
  // The second run of many tokens begins with columns that its first try overwrites.
  for (const auto& [begin, end] : {std::pair{0, 5}, {5, 40}, {40, 41}}) {
    const Chunk chunk{&cache, begin, std::span(tokens).subspan(begin, end - begin), Logits::kAll};
    std::vector<float> logits;
    again.BeginStep();
    const absl::Status status = device.engine().Run({&chunk, 1}, again, &logits);
    ASSERT_TRUE(status.ok()) << status;
    got.insert(got.end(), logits.begin(), logits.end());
  }
  ASSERT_EQ(got.size(), 41 * V);
  EXPECT_EQ(got, want);
}

// One that finds so of a step when another has been begun behind it, which starts where the first has saved columns.
TEST_F(DeviceEngineTest, RunsAStepAgainAndTheOneBehindItAndWhatWasDoneBetween) {
  class Again : public ExpertRunner {
   public:
    explicit Again(LocalExperts* experts) : experts_(*experts) {}
    bool may_run_again() const override { return void_; }
    bool capturable() const override { return false; }
    absl::Status Enqueue(const RoutedRows& rows, cudaStream_t stream) override {
      if (!void_) return experts_.Enqueue(rows, stream);
      return CudaError(cudaMemsetAsync(rows.y, 0x41, sizeof(float) * rows.T * rows.D, stream), "spoiling a step");
    }
    absl::Status Wait(cudaEvent_t event) override {
      RETURN_IF_ERROR(ExpertRunner::Wait(event));
      return std::exchange(void_, false) ? absl::ResourceExhaustedError("too little room") : absl::OkStatus();
    }

   private:
    LocalExperts& experts_;
    bool void_ = true;
  };
  const TinyModel model(DType::kBF16);
  const auto V = static_cast<size_t>(model.config.vocab_size);
  const std::vector<TokenId> tokens = model.Tokens(52, 7);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  DeviceStates& states = device.engine().states();
  const std::vector<float> want = device.Logits(tokens, 52);
  const auto best = [&](const std::vector<float>& logits, int row) {
    return Best(std::span(logits).subspan(static_cast<size_t>(row) * V, V));
  };
  std::vector<TokenId> answer(tokens.begin(), tokens.begin() + 40);
  answer.push_back(best(want, 39));
  answer.push_back(best(device.Logits(answer, 41), 40));

  SequenceCache one = device.NewSequence(64), other = device.NewSequence(64);
  other.blocks[0] = one.blocks[0];  // what they have in common: 32 tokens
  const Chunk before{&one, 0, std::span(tokens).first(20), Logits::kNone};
  EXPECT_TRUE(device.Step({&before, 1}).empty());
  Again again(&device.experts());
  const ColumnsSave save{32, 2};
  const Chunk first{&one, 20, std::span(tokens).subspan(20, 20), Logits::kLast, {&save, 1}};
  const Engine::DrawnRow rows[] = {{.row = 0}, {.row = 1}};
  ASSERT_EQ(device.engine().Run({&first, 1}, again, nullptr), absl::OkStatus());
  ASSERT_EQ(device.engine().Draw({rows, 1}), absl::OkStatus());
  states.Restore(2, 32, other.conv_slot);
  states.Save(other.conv_slot, 32, 3);
  const TokenId holds_the_place = 0;
  const Chunk second[] = {{.cache = &one, .position = 40, .tokens = {&holds_the_place, 1}, .drawn = 0},
                          {.cache = &other, .position = 32, .tokens = std::span(tokens).subspan(32)}};
  ASSERT_EQ(device.engine().Run(second, again, nullptr), absl::OkStatus());
  ASSERT_EQ(device.engine().Draw(rows), absl::OkStatus());
  std::vector<TokenId> drawn;
  ASSERT_EQ(device.engine().TakeDrawn(&drawn), absl::OkStatus());
  EXPECT_EQ(drawn, std::vector{answer[40]});
  ASSERT_EQ(device.engine().TakeDrawn(&drawn), absl::OkStatus());
  EXPECT_EQ(drawn, (std::vector{answer[41], best(want, 51)}));
  std::vector<float> logits;
  ASSERT_EQ(device.engine().Logits(1, 2, &logits), absl::OkStatus());
  EXPECT_EQ(logits, std::vector<float>(want.end() - V, want.end()));
  // What was saved between the steps is what should have been.
  states.Restore(3, 32, other.conv_slot);
  const Chunk third{.cache = &other, .position = 32, .tokens = std::span(tokens).subspan(32)};
  EXPECT_EQ(device.Step({&third, 1}), logits);
}

class DeviceEngineIn : public OnFakeDevice<testing::TestWithParam<DType>> {};
INSTANTIATE_TEST_SUITE_P(Precisions, DeviceEngineIn, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_P(DeviceEngineIn, GivesTheSameBitsHoweverThePromptIsCut) {
  const TinyModel model(DType::kQ4_0);
  const int count = simt::kManyThreads ? 40 : 18;
  const std::vector<TokenId> tokens = model.Tokens(count, 2);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(GetParam()));
  const std::vector<float> whole = device.Logits(tokens, count);
  for (float value : whole) ASSERT_TRUE(std::isfinite(value));
  for (const int piece : {1, 7}) ASSERT_EQ(device.Logits(tokens, piece), whole) << "by " << piece;
}

TEST_P(DeviceEngineIn, GivesTheSameBitsWhateverTheBatchWithGraphsAndWithout) {
  const TinyModel model(DType::kBF16);
  constexpr int kPrompt = 5, kSteps = 4, kSequences = simt::kManyThreads ? 5 : 3;
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> alone;
  DeviceEngineOptions options = SmallOptions(GetParam());
  options.graphs = false;
  {
    DeviceFixture device(&model.config, &model.tensors, options);
    for (int s = 0; s < kSequences; ++s) {
      tokens.push_back(model.Tokens(kPrompt + kSteps + s, 100 + s));
      alone.push_back(device.Logits(tokens.back(), 100));
    }
    EXPECT_EQ(device.runner().graphs().size(), 0);
  }
  const auto V = static_cast<size_t>(model.config.vocab_size);
  for (const uint64_t seed : simt::kManyThreads ? std::vector<uint64_t>{0, 1, 2, 3} : std::vector<uint64_t>{0, 1}) {
    const bool graphs = seed != 0;
    simt::SetSeed(seed);
    options.graphs = graphs;
    DeviceFixture device(&model.config, &model.tensors, options);
    const uint64_t launched = fake::CallsSoFar().graph_launches;
    std::vector<SequenceCache> caches;
    for (int s = 0; s < kSequences; ++s) caches.push_back(device.NewSequence(64));
    std::vector<Chunk> chunks;
    for (int s = 0; s < kSequences; ++s)
      chunks.push_back({&caches[s], 0, std::span(tokens[s]).first(kPrompt + s), Logits::kNone});
    EXPECT_TRUE(device.Step(chunks).empty());
    for (int step = 0; step < kSteps; ++step) {
      chunks.clear();
      for (int s = 0; s < kSequences; ++s)
        chunks.push_back({&caches[s], kPrompt + s + step, std::span(tokens[s]).subspan(kPrompt + s + step, 1)});
      const std::vector<float> logits = device.Step(chunks);
      ASSERT_EQ(logits.size(), kSequences * V);
      for (int s = 0; s < kSequences; ++s) {
        const std::span<const float> got = std::span(logits).subspan(s * V, V),
                                     want = std::span(alone[s]).subspan((kPrompt + s + step) * V, V);
        ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin(), want.end())) << s << " in step " << step;
      }
    }
    EXPECT_EQ(fake::CallsSoFar().graph_launches - launched, static_cast<uint64_t>(graphs ? kSteps - 1 : 0));
  }
  simt::SetSeed(0);
}

// Prompts beside decodes, a sequence that goes on where another one's blocks were, and no rows at all.
TEST_P(DeviceEngineIn, GivesTheSameBitsBesideAnything) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> one = model.Tokens(41, 7), other = model.Tokens(30, 8);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(GetParam()));
  const std::vector<float> one_alone = device.Logits(one, 100), other_alone = device.Logits(other, 100);
  const auto V = static_cast<size_t>(model.config.vocab_size);
  SequenceCache a = device.NewSequence(64), b = device.NewSequence(64);
  Chunk first{&a, 0, std::span(one).first(40), Logits::kNone};
  EXPECT_TRUE(device.Step({&first, 1}).empty());
  EXPECT_TRUE(device.Step({}).empty());
  const Chunk chunks[] = {{&b, 0, other, Logits::kLast}, {&a, 40, std::span(one).last(1), Logits::kLast}};
  const std::vector<float> logits = device.Step(chunks);
  EXPECT_TRUE(std::equal(logits.begin(), logits.begin() + V, other_alone.end() - V));
  EXPECT_TRUE(std::equal(logits.end() - V, logits.end(), one_alone.end() - V));
}

TEST_F(DeviceEngineTest, RunsManySpansOfContextAsOne) {
  if (!simt::kManyThreads) GTEST_SKIP() << "too long for ThreadSanitizer";
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(530, 3);
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  options.step_tokens_max = 600;
  DeviceFixture device(&model.config, &model.tensors, options);
  const auto V = static_cast<size_t>(model.config.vocab_size);
  const auto last = [&](int cut) {
    SequenceCache cache = device.NewSequence(600);
    const Chunk before{&cache, 0, std::span(tokens).first(cut), Logits::kNone};
    EXPECT_TRUE(device.Step({&before, 1}).empty());
    const Chunk rest{&cache, cut, std::span(tokens).subspan(cut), Logits::kLast};
    return device.Step({&rest, 1});
  };
  const std::vector<float> whole = last(1);
  ASSERT_EQ(whole.size(), V);
  EXPECT_EQ(last(529), whole);

  // Its spans are worked on at once beside a prefill's tiles, some of which are as small.
  const std::vector<TokenId> others = model.Tokens(37, 4);
  const std::vector<float> others_alone = device.Logits(others, 37);
  SequenceCache cache = device.NewSequence(600), beside = device.NewSequence(40);
  const Chunk before{&cache, 0, std::span(tokens).first(529), Logits::kNone};
  EXPECT_TRUE(device.Step({&before, 1}).empty());
  const Chunk both[] = {{&cache, 529, std::span(tokens).last(1), Logits::kLast}, {&beside, 0, others, Logits::kAll}};
  const std::vector<float> logits = device.Step(both);
  EXPECT_TRUE(std::equal(logits.begin(), logits.begin() + V, whole.begin()));
  EXPECT_TRUE(std::equal(logits.begin() + V, logits.end(), others_alone.begin(), others_alone.end()));
}

// What StepRunner does to take a run back, and to begin where another sequence was.
TEST_P(DeviceEngineIn, GoesOnFromSavedColumns) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(60, 4);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(GetParam()));
  const std::vector<float> want = device.Logits(tokens, 60);
  const auto V = static_cast<size_t>(model.config.vocab_size);
  SequenceCache cache = device.NewSequence(64);
  const ColumnsSave save{33, 2};
  const Chunk first{&cache, 0, std::span(tokens).first(40), Logits::kNone, {&save, 1}};
  device.Step({&first, 1});
  device.engine().states().Save(cache.conv_slot, 40, 3);
  const Chunk rest{&cache, 40, std::span(tokens).subspan(40), Logits::kLast};
  const std::vector<float> end(want.end() - V, want.end());
  EXPECT_EQ(device.Step({&rest, 1}), end);
  device.engine().states().Restore(3, 40, cache.conv_slot);  // 20 tokens have gone around the ring
  EXPECT_EQ(device.Step({&rest, 1}), end);
  SequenceCache resumed = device.NewSequence(64);
  std::copy_n(cache.blocks.begin(), 1, resumed.blocks.begin());
  device.engine().states().Restore(2, 33, resumed.conv_slot);
  resumed.blocks = cache.blocks;
  const Chunk again{&resumed, 33, std::span(tokens).subspan(33), Logits::kLast};
  EXPECT_EQ(device.Step({&again, 1}), end);
}

TEST_F(DeviceEngineTest, GivesRowsOfLogitsPieceByPiece) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(40, 5);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  const std::vector<float> all = device.Logits(tokens, 40);
  SequenceCache cache = device.NewSequence(40);
  const Chunk chunk{&cache, 0, tokens, Logits::kAll};
  ASSERT_TRUE(device.engine().Run({&chunk, 1}, device.runner(), nullptr).ok());
  const auto V = static_cast<size_t>(model.config.vocab_size);
  for (const auto& [begin, end] : {std::pair{5, 12}, {0, 3}, {30, 40}, {12, 40}, {7, 7}}) {
    std::vector<float> logits;
    ASSERT_TRUE(device.engine().Logits(begin, end, &logits).ok());
    EXPECT_EQ(logits, std::vector<float>(all.begin() + begin * V, all.begin() + end * V)) << begin;
  }
}

TEST_F(DeviceEngineTest, DrawsTokens) {
  const TinyModel model(DType::kBF16);
  const std::vector<TokenId> tokens = model.Tokens(40, 6);
  DeviceEngineOptions options = SmallOptions(DType::kF32);
  const auto V = static_cast<size_t>(model.config.vocab_size);
  DeviceFixture reference(&model.config, &model.tensors, options);
  const std::vector<float> all = reference.Logits(tokens, 40);
  options.masked = {Best(std::span(all).subspan(3 * V, V)), 55};
  DeviceFixture device(&model.config, &model.tensors, options);
  SequenceCache cache = device.NewSequence(40);
  const Chunk chunk{&cache, 0, tokens, Logits::kAll};
  ASSERT_TRUE(device.engine().Run({&chunk, 1}, device.runner(), nullptr).ok());
  std::vector<Engine::DrawnRow> rows;
  for (const int row : {3, 39, 20}) rows.push_back({.row = row});
  rows.push_back({.row = 10, .temperature = 1, .uniform = 1 - 1e-12});
  rows.push_back({.row = 11, .temperature = 2, .min_p = 1, .uniform = 0.5});
  rows.push_back({.row = 12, .temperature = 2, .top_k = 1, .uniform = 0.9});
  rows.push_back({.row = 13, .temperature = 2, .top_p = 1e-6f, .uniform = 0.9});
  std::vector<TokenId> drawn;
  ASSERT_TRUE(device.engine().Draw(rows).ok());
  ASSERT_TRUE(device.engine().TakeDrawn(&drawn).ok());
  ASSERT_EQ(drawn.size(), rows.size());
  const auto best = [&](int row) {
    std::vector<float> logits(all.begin() + row * V, all.begin() + (row + 1) * V);
    for (const TokenId masked : options.masked) logits[masked] = -1e30f;
    return Best(logits);
  };
  for (const size_t i : {0, 1, 2, 4, 5, 6}) EXPECT_EQ(drawn[i], best(rows[i].row)) << i;
  EXPECT_EQ(drawn[3], options.masked[0] == 54 ? 53 : 54) << "the last one that is not masked";
  std::vector<float> logits;
  ASSERT_TRUE(device.engine().Logits(3, 4, &logits).ok());
  EXPECT_EQ(logits, std::vector<float>(all.begin() + 3 * V, all.begin() + 4 * V)) << "not masked for the host";
}

TEST_F(DeviceEngineTest, CountsTheRowsOfExpertsWithoutPadding) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  const auto rows_since = [&] {
    const std::vector<uint64_t> rows = device.experts().TakeExpertRows();
    return std::accumulate(rows.begin(), rows.end(), uint64_t{0});
  };
  const auto pairs = static_cast<uint64_t>(model.config.moe_layer_count() * model.config.experts_per_token);
  device.Logits(model.Tokens(20, 1), 20);
  EXPECT_EQ(rows_since(), 20 * pairs);
  std::vector<SequenceCache> caches;
  for (int s = 0; s < 3; ++s) caches.push_back(device.NewSequence(8));
  const std::vector<TokenId> tokens = model.Tokens(3, 2);
  for (int step = 0; step < 3; ++step) {
    std::vector<Chunk> chunks;
    for (int s = 0; s < 3; ++s) chunks.push_back({&caches[s], step, std::span(tokens).subspan(s, 1)});
    device.Step(chunks);
  }
  EXPECT_EQ(rows_since(), 3 * 3 * pairs) << "a class of four rows, once plainly and twice in a graph";
  EXPECT_EQ(rows_since(), 0u);
}

TEST_F(DeviceEngineTest, HoldsSomeExpertsAndLoadsOthersMeanwhile) {
  const TinyModel model(DType::kQ4_0);
  const std::vector<TokenId> tokens = model.Tokens(24, 9);
  DeviceFixture all(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  const std::vector<float> want = all.Logits(tokens, 24);

  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  options.expert_places = 6;
  DeviceFixture some(&model.config, &model.tensors, options);
  const int E = model.config.experts, layers = model.config.moe_layer_count();
  const auto experts = [&](std::initializer_list<int> of_each) {
    std::vector<bool> wanted(static_cast<size_t>(E * layers));
    for (int layer = 0; layer < layers; ++layer)
      for (const int e : of_each) wanted[static_cast<size_t>(layer * E + e)] = true;
    return wanted;
  };
  auto first = some.engine().LoadExperts(experts({0, 1, 2}), NeverStop);
  ASSERT_TRUE(first.ok());
  auto second = some.engine().LoadExperts(experts({7, 2, 5, 3}), NeverStop);
  ASSERT_TRUE(second.ok()) << "there are six places, one for what both have";
  const auto third = some.engine().LoadExperts(experts({4}), NeverStop);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(third.status()), AllOf(HasSubstr("6 experts"), HasSubstr("expert 4 of layer 1")));
  first = absl::CancelledError("let go of");
  ASSERT_TRUE(some.engine().LoadExperts(experts({4}), NeverStop).ok());

  // The products of what is held are those of a device with all experts.
  const int64_t D = model.config.model_dim;
  const auto product = [&](DeviceEngine& engine, std::shared_ptr<const ExpertPlaces::Held> held) {
    const auto ffn = engine.MakeExpertFfn(std::move(held));
    const std::vector<int32_t> offsets = {0, 0, 0, 2, 3, 3, 4, 4, 7}, source = {0, 1, 0, 1, 0, 1, 0};
    std::vector<float> x(2 * D);
    for (int64_t i = 0; i < 2 * D; ++i) x[i] = static_cast<float>(i % 7) - 3;
    std::vector<uint16_t> x_bf16(x.size());
    for (size_t i = 0; i < x.size(); ++i) x_bf16[i] = BFloat16FromFloat(x[i]);
    const auto on_device = [&](const auto& values, uint64_t bytes) {
      DeviceMemory memory = *AllocateDevice(bytes);
      if (values.data() != nullptr) {
        EXPECT_EQ(cudaMemcpy(memory.get(), values.data(), values.size() * sizeof(values[0]), cudaMemcpyHostToDevice),
                  cudaSuccess);
      }
      return memory;
    };
    const DeviceMemory d_x = on_device(x_bf16, 4 * D), d_offsets = on_device(offsets, 36),
                       d_source = on_device(source, 28);
    const DeviceMemory d_y = on_device(std::vector<float>(), 7 * 2 * D);
    EXPECT_TRUE(
        ffn->Enqueue({1, static_cast<int>(D), DType::kBF16, d_x.get(), static_cast<const int32_t*>(d_source.get()),
                      static_cast<const int32_t*>(d_offsets.get()), 7, d_y.get()},
                     engine.stream())
            .ok());
    EXPECT_EQ(cudaStreamSynchronize(engine.stream()), cudaSuccess);
    std::vector<uint16_t> y(7 * D);
    EXPECT_EQ(cudaMemcpy(y.data(), d_y.get(), 14 * D, cudaMemcpyDeviceToHost), cudaSuccess);
    return y;
  };
  EXPECT_EQ(product(some.engine(), *second), product(all.engine(), *all.engine().LoadExperts({}, NeverStop)));
}

TEST_F(DeviceEngineTest, TakesAsManyBlocksAsFitAndSaysWhatMemoryItNeeds) {
  const TinyModel model(DType::kBF16);
  DeviceEngineOptions options = SmallOptions(DType::kBF16);
  options.states.blocks = 0;
  options.reserve_bytes = 1 << 20;
  const auto create = [&](size_t memory) {
    fake::Reset();
    fake::SetDeviceMemory(memory);
    return DeviceEngine::Create(*OpenDevice(0), &model.config, &model.tensors, options);
  };
  constexpr int kUseful = 8 * 32;  // eight whole contexts
  size_t needed = 0;
  {
    const auto engine = create(size_t{1} << 30);
    ASSERT_TRUE(engine.ok()) << engine.status();
    EXPECT_EQ((*engine)->states().sizes().blocks, kUseful);
    needed = (*engine)->memory().needed_bytes();
  }
  const uint64_t block_bytes = DeviceStates::BlockBytes(model.config);
  {
    const auto engine = create(needed - 100 * block_bytes);
    ASSERT_TRUE(engine.ok()) << engine.status();
    EXPECT_LE((*engine)->memory().needed_bytes(), needed - 100 * block_bytes);
    EXPECT_NEAR((*engine)->states().sizes().blocks, kUseful - 100, 2);
  }
  const absl::Status status = create(needed - kUseful * block_bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("of device memory are needed"), HasSubstr("are available"),
                                     HasSubstr("weights"), HasSubstr("reserve"), HasSubstr("KV")));
  EXPECT_EQ(fake::DeviceBytesInUse(), 0u);
}

TEST_F(DeviceEngineTest, StopsLoading) {
  const TinyModel model(DType::kBF16);
  auto engine = *DeviceEngine::Create(*OpenDevice(0), &model.config, &model.tensors, SmallOptions(DType::kBF16));
  int asked = 0;
  EXPECT_EQ(engine->Load([&] { return ++asked == 5; }).code(), absl::StatusCode::kCancelled);
  uint64_t seen = 0, all = 0;
  EXPECT_TRUE(engine->Load(NeverStop, [&](uint64_t done, uint64_t of) { seen = done, all = of; }).ok());
  EXPECT_GT(seen, all / 2);
  EXPECT_LE(seen, all);
  asked = 0;
  EXPECT_EQ(engine->LoadExperts({}, [&] { return ++asked == 7; }).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(engine->LoadExperts({}, NeverStop).ok()) << "nothing is held by what was stopped";
}

TEST_F(DeviceEngineTest, RefusesWhatItHasNoRoomFor) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  SequenceCache cache = device.NewSequence(200);
  const std::vector<TokenId> tokens = model.Tokens(129, 1);
  const Chunk chunk{&cache, 0, tokens};
  const absl::Status status = device.engine().Run({&chunk, 1}, device.runner(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("129 rows, the device has room for 128"));
  ModelConfig odd = model.config;
  odd.head_dim = 48;
  EXPECT_THAT(Message(DeviceEngine::Create(*OpenDevice(0), &odd, &model.tensors, SmallOptions(DType::kBF16)).status()),
              HasSubstr("head_dim is 48, on a GPU it must be 32, 64 or 128: run with --device cpu"));
}

TEST_F(DeviceEngineTest, AllocatesNothingOnceItServes) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  device.Logits(model.Tokens(30, 1), 7);
  const size_t device_bytes = fake::DeviceBytesInUse(), pinned = fake::PinnedBytesInUse();
  device.Logits(model.Tokens(90, 1), 60);
  EXPECT_EQ(fake::DeviceBytesInUse(), device_bytes);
  EXPECT_EQ(fake::PinnedBytesInUse(), pinned);
}

TEST_F(DeviceEngineTest, WaitsOncePerStepAndMakesFewCalls) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  SequenceCache cache = device.NewSequence(64);
  const std::vector<TokenId> tokens = model.Tokens(10, 1);
  fake::Calls before;
  for (int step = 0; step < 5; ++step) {
    if (step == 3) before = fake::CallsSoFar();
    const Chunk chunk{&cache, step, std::span(tokens).subspan(step, 1)};
    std::vector<TokenId> drawn;
    const Engine::DrawnRow row{.row = 0};
    ASSERT_TRUE(device.engine().Run({&chunk, 1}, device.runner(), nullptr).ok());
    ASSERT_TRUE(device.engine().Draw({&row, 1}).ok());
    ASSERT_TRUE(device.engine().TakeDrawn(&drawn).ok());
  }
  const fake::Calls after = fake::CallsSoFar();
  EXPECT_EQ(after.graph_launches - before.graph_launches, 2u);
  EXPECT_LE(after.operations - before.operations, 2u * 6)
      << "inputs, graph, rows of experts, what is to be drawn, draws, tokens";
}

// A few sequences, of which each token is drawn where the step before has left the last one.
class Conversation {
 public:
  static constexpr int kSequences = 3, kSteps = 8, kPrompt = 4;

  Conversation(const TinyModel& model, const DeviceEngineOptions& options)
      : device_(&model.config, &model.tensors, options), answers_(kSequences) {
    for (int s = 0; s < kSequences; ++s) {
      caches_.push_back(device_.NewSequence(64));
      prompts_.push_back(model.Tokens(kPrompt + s, 30 + s));
    }
  }

  // With at most `ahead` steps that are begun before the tokens of the one before are known.
  std::vector<std::vector<TokenId>> Answers(int ahead) {
    for (int step = 0; step < kSteps; ++step) {
      Begin(step, /*follows=*/begun_ > 0);
      if (begun_ > ahead) Take();
    }
    while (begun_ > 0) Take();
    return answers_;
  }

  DeviceEngine& engine() { return device_.engine(); }
  Engine::DrawnRow row;  // how each token is drawn; one of the sequences takes the best

 private:
  void Begin(int step, bool follows) {
    std::vector<Chunk> chunks;
    std::vector<Engine::DrawnRow> rows;
    const TokenId holds_the_place = 0;
    for (int i = 0; i < kSequences; ++i) {
      const int s = (i + step) % kSequences;  // places in the batch change
      const std::vector<TokenId>& prompt = prompts_[s];
      Chunk chunk{&caches_[s], 0, prompt};
      if (step > 0) chunk.position = static_cast<int>(prompt.size()) + step - 1;
      if (step > 0) chunk.tokens = {follows ? &holds_the_place : &answers_[s].back(), 1};
      if (follows) chunk.drawn = static_cast<int>(std::ranges::find(order_, s) - order_.begin());
      chunks.push_back(chunk);
    }
    order_.clear();
    for (int i = kSequences - 1; i >= 0; --i) {  // and rows are drawn in an order of their own
      order_.push_back((i + step) % kSequences);
      rows.push_back({i});
      if (order_.back() == 0) continue;
      rows.back() = row;
      rows.back().row = i;
      rows.back().uniform = UniformAt(7, 0, static_cast<uint64_t>(step * 10 + order_.back()));
    }
    ASSERT_EQ(engine().Run(chunks, device_.runner(), nullptr), absl::OkStatus());
    ASSERT_EQ(engine().Draw(rows), absl::OkStatus());
    orders_.push_back(order_);
    ++begun_;
  }

  void Take() {
    std::vector<TokenId> drawn;
    ASSERT_EQ(engine().TakeDrawn(&drawn), absl::OkStatus());
    ASSERT_EQ(drawn.size(), static_cast<size_t>(kSequences));
    for (int i = 0; i < kSequences; ++i) answers_[orders_.front()[i]].push_back(drawn[i]);
    orders_.pop_front();
    --begun_;
  }

  DeviceFixture device_;
  std::vector<SequenceCache> caches_;
  std::vector<std::vector<TokenId>> prompts_, answers_;
  std::vector<int> order_;  // of the last step's draws: whose they are
  std::deque<std::vector<int>> orders_;
  int begun_ = 0;
};

TEST_P(DeviceEngineIn, DrawsTheSameTokensWhetherTheHostKnowsTheLastOnesOrNot) {
  const TinyModel model(DType::kBF16);
  DeviceEngineOptions options = SmallOptions(GetParam());
  options.logit_rows = 2;  // less than a step wants
  for (const bool graphs : {false, true}) {
    options.graphs = graphs;
    std::vector<std::vector<TokenId>> one_at_a_time;
    for (const int ahead : {0, 1}) {
      fake::Reset();
      Conversation conversation(model, options);
      conversation.row = {.temperature = 0.9f, .min_p = 0.01f};
      const std::vector<std::vector<TokenId>> answers = conversation.Answers(ahead);
      if (ahead == 0) one_at_a_time = answers;
      EXPECT_EQ(answers, one_at_a_time) << "graphs " << graphs;
      EXPECT_EQ(fake::CallsSoFar().graph_launches, graphs ? 6u : 0u) << "one to see the shape, one prompt";
    }
    for (const std::vector<TokenId>& answer : one_at_a_time)
      EXPECT_GT(std::set(answer.begin(), answer.end()).size(), 1u);
  }
}

TEST_F(DeviceEngineTest, RunsSomethingBehindWhatCouldNotBeDrawn) {
  TinyModel model(DType::kBF16);
  const std::vector<float> none(static_cast<size_t>(model.config.model_dim), NAN);
  model.tensors.final_norm.data = reinterpret_cast<const std::byte*>(none.data());
  Conversation conversation(model, SmallOptions(DType::kBF16));
  for (const std::vector<TokenId>& answer : conversation.Answers(1))
    EXPECT_EQ(answer, std::vector<TokenId>(Conversation::kSteps, -1));
}

TEST_F(DeviceEngineTest, KnowsWithoutWaitingWhetherAStepIsDone) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  EXPECT_TRUE(device.engine().Drawn()) << "there is nothing to wait for";
  ASSERT_TRUE(device.engine().Run({}, device.runner(), nullptr).ok());
  ASSERT_TRUE(device.engine().Draw({}).ok());
  const uint64_t waits = fake::CallsSoFar().waits;
  while (!device.engine().Drawn()) continue;
  EXPECT_EQ(fake::CallsSoFar().waits, waits);
  std::vector<TokenId> tokens = {1};
  EXPECT_TRUE(device.engine().TakeDrawn(&tokens).ok());
  EXPECT_TRUE(tokens.empty());
}

TEST_F(DeviceEngineTest, AnErrorOfAStepIsThatOfAllBehindIt) {
  const TinyModel model(DType::kBF16);
  DeviceFixture device(&model.config, &model.tensors, SmallOptions(DType::kBF16));
  SequenceCache cache = device.NewSequence(64);
  const std::vector<TokenId> tokens = model.Tokens(5, 1);
  const Engine::DrawnRow row{.row = 0};
  const Chunk first{&cache, 0, tokens}, second{.cache = &cache, .position = 5, .tokens = {&tokens[0], 1}, .drawn = 0};
  fake::FailOperation(20);
  for (const Chunk& chunk : {first, second}) {
    if (device.engine().Run({&chunk, 1}, device.runner(), nullptr).ok()) (void)device.engine().Draw({&row, 1});
  }
  std::vector<TokenId> drawn;
  EXPECT_FALSE(device.engine().TakeDrawn(&drawn).ok());
  EXPECT_TRUE(device.engine().Drawn()) << "nothing is left to be taken";
}

// The model that we ship, token by token.
TEST_F(DeviceEngineTest, SaysWhatTheCpuSaysWithTheDemoModel) {
  if (!simt::kManyThreads) GTEST_SKIP() << "too long for ThreadSanitizer";
  const auto file = ModelFile::Open("model/demo");
  ASSERT_TRUE(file.ok()) << file.status();
  const ModelConfig& config = (*file)->config();
  const auto generate = [&](auto& fixture) {
    SequenceCache cache = fixture.NewSequence(64);
    std::vector<TokenId> tokens = {config.vocab_size - 94, 40, 50, 60, 70, 80};
    int position = 0;
    for (int i = 0; i < 12; ++i) {
      const Chunk chunk{&cache, position, std::span(tokens).subspan(position)};
      const std::vector<float> logits = fixture.Step({&chunk, 1});
      position = static_cast<int>(tokens.size());
      tokens.push_back(Best(logits));
    }
    return tokens;
  };
  ForwardFixture cpu(&config, &(*file)->tensors());
  DeviceFixture device(&config, &(*file)->tensors(), SmallOptions(DType::kF32));
  EXPECT_EQ(generate(device), generate(cpu));
}

}  // namespace
}  // namespace braid::gpu
