#include "cli/bench_quality/quality_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/check.h"
#include "cli/bench_quality/fp8_weights.h"
#include "cli/bench_quality/logits_file.h"
#include "expert_worker/load_weights.h"
#include "model/convert.h"
#include "model/safetensors_file.h"
#include "model/test_files.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class QualityRunTest : public ::testing::Test {
 protected:
  QualityRunTest() {
    CHECK(Convert(TinyModel(TinyConfig()), dir_ / "q8.gguf", {.type = DType::kQ8_0}).ok());
    model_ = MustOpen(dir_ / "q8.gguf");
    packed_ = *WorkerWeights::Create(model_.get(), 1);
    CHECK(packed_->packs());
    CHECK(packed_->Load(WorkerWeights::What::kAll, [] { return false; }).ok());
  }
  QualityFigures MustCompare(const ModelTensors& reference, const ModelTensors& candidate,
                             const QualityRunOptions& options = {}) {
    const auto figures = CompareEngines(model_->config(), reference, candidate, sequences_, options, &pool_);
    CHECK(figures.ok()) << figures.status();
    return *figures;
  }

  const TempDir dir_;
  ThreadPool pool_{2};
  std::unique_ptr<ModelFile> model_;
  std::unique_ptr<WorkerWeights> packed_;
  const TokenSequences sequences_ = RandomSequences(250, 100, 40);
};

TEST_F(QualityRunTest, FindsNothingBetweenAModelAndItself) {
  const QualityFigures figures = MustCompare(model_->tensors(), model_->tensors());
  EXPECT_EQ(figures.kl.count, 100u);
  EXPECT_EQ(figures.kl.max, 0);
  EXPECT_EQ(figures.top1_agreement, 1);
  EXPECT_EQ(figures.predicted, 97u);  // each of three sequences ends
  EXPECT_EQ(figures.reference_perplexity, figures.candidate_perplexity);
  EXPECT_GT(figures.reference_perplexity, 1);
}

TEST_F(QualityRunTest, SeesThatPanelsQuantiseActivations) {
  const QualityFigures figures = MustCompare(model_->tensors(), packed_->tensors());
  EXPECT_GT(figures.kl.mean, 0);
  EXPECT_LT(figures.kl.mean, 0.05);
}

TEST_F(QualityRunTest, SeesWhatFp8TakesFromWeights) {
  CHECK(Convert(TinyModel(TinyConfig()), dir_ / "bf16.gguf", {.type = DType::kBF16}).ok());
  const std::unique_ptr<ModelFile> model = MustOpen(dir_ / "bf16.gguf");
  const auto rounded = Fp8Weights::Round(model->tensors(), &pool_);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  const QualityFigures figures = MustCompare(model->tensors(), rounded->tensors());
  EXPECT_GT(figures.kl.mean, 0);
  EXPECT_LT(figures.kl.mean, 0.1);
  EXPECT_EQ(rounded->tensors().embedding.data, model->tensors().embedding.data);
  // What is in FP8 already stays as it is.
  const auto again = Fp8Weights::Round(rounded->tensors(), &pool_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(MustCompare(rounded->tensors(), again->tensors()).kl.max, 0);
  EXPECT_EQ(Fp8Weights::Round(model_->tensors(), &pool_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(QualityRunTest, GivesTheSameFiguresHoweverStepsAreCut) {
  const QualityFigures whole = MustCompare(model_->tensors(), packed_->tensors());
  for (const int rows : {1, 7, 39}) {
    int done = 0, steps = 0;
    const QualityFigures cut =
        MustCompare(model_->tensors(), packed_->tensors(), {.rows_max = rows, .progress = [&](int n) {
                                                              done = n;
                                                              ++steps;
                                                            }});
    EXPECT_EQ(cut.kl.mean, whole.kl.mean);
    EXPECT_EQ(cut.candidate_perplexity, whole.candidate_perplexity);
    EXPECT_EQ(done, 100);
    EXPECT_GE(steps, 100 / rows);
  }
}

TEST_F(QualityRunTest, ShowsAWeightThatIsNotANumber) {
  ModelTensors broken = model_->tensors();
  std::vector<float> norm(static_cast<size_t>(model_->config().model_dim), 1.0f);
  norm[3] = std::numeric_limits<float>::quiet_NaN();
  broken.final_norm.data = reinterpret_cast<const std::byte*>(norm.data());
  const QualityFigures figures = MustCompare(model_->tensors(), broken);
  EXPECT_TRUE(std::isinf(figures.kl.mean));
  EXPECT_EQ(figures.top1_agreement, 0);
}

TEST_F(QualityRunTest, PassesOnWhatTheSinkReports) {
  const QualityRunOptions options = {.logits = [](auto, auto) { return absl::PermissionDeniedError("disk full"); }};
  const auto figures =
      CompareEngines(model_->config(), model_->tensors(), model_->tensors(), sequences_, options, &pool_);
  EXPECT_EQ(figures.status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(LogitsFile, IsSafetensors) {
  const TempDir dir;
  const std::string path = dir / "logits";
  const auto file = LogitsFile::Create(path, {{5, 6}, {7}}, 2);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Append(std::vector<float>{0, 1, 2, 3}, std::vector<float>{10, 11, 12, 13}).ok());
  ASSERT_TRUE((*file)->Append(std::vector<float>{4, 5}, std::vector<float>{14, 15}).ok());
  ASSERT_TRUE((*file)->Close().ok());
  const std::string bytes = ReadFile(path);
  const auto tensors = ParseSafetensors(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const auto numbers = [&]<typename T>(size_t tensor, T) {
    std::vector<T> values((*tensors)[tensor].data.size() / sizeof(T));
    std::memcpy(values.data(), (*tensors)[tensor].data.data(), values.size() * sizeof(T));
    return values;
  };
  EXPECT_THAT(numbers(0, int32_t{}), ElementsAre(5, 6, 7));
  EXPECT_THAT(numbers(1, int32_t{}), ElementsAre(2, 1));
  EXPECT_THAT(numbers(2, float{}), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(numbers(3, float{}), ElementsAre(10, 11, 12, 13, 14, 15));
}

TEST(LogitsFile, SaysThatItCannotBeWritten) {
  EXPECT_EQ(LogitsFile::Create("/nowhere/logits", {{1}}, 2).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(CutText, BeginsASequenceAtEachFirstTokenAndWhenOneIsFull) {
  const auto tokenizer = Tokenizer::Create(TinyTokenizer());
  ASSERT_TRUE(tokenizer.ok());
  const auto cut = [&](std::string_view text, int tokens, int sequence_tokens) {
    std::vector<std::string> parts;
    for (const auto& sequence : CutText(**tokenizer, text, tokens, sequence_tokens))
      parts.push_back((*tokenizer)->Decode(sequence, /*keep_specials=*/true));
    return parts;
  };
  EXPECT_THAT(cut("<|startoftext|>abc<|startoftext|>de", 100, 100),
              ElementsAre("<|startoftext|>abc", "<|startoftext|>de"));
  EXPECT_THAT(cut("abcde", 100, 2), ElementsAre("<|startoftext|>a", "bc", "de"));
  EXPECT_THAT(cut("abcde", 3, 2), ElementsAre("<|startoftext|>a", "b"));
  EXPECT_THAT(cut("", 100, 2), IsEmpty());
}

TEST(RandomSequences, CoverTheVocabularyAndRepeat) {
  const TokenSequences sequences = RandomSequences(50, 1000, 300);
  ASSERT_EQ(sequences.size(), 4u);
  EXPECT_EQ(sequences[3].size(), 100u);
  std::vector<bool> seen(50);
  for (const auto& sequence : sequences)
    for (const TokenId token : sequence) seen.at(static_cast<size_t>(token)) = true;
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 50);
  EXPECT_EQ(RandomSequences(50, 1000, 300), sequences);
}

}  // namespace
}  // namespace braid
