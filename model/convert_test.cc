#include "model/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "kernels/ref/dequant.h"
#include "model/inspect.h"
#include "model/quantize.h"
#include "model/test_files.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::vector<float>> Values(const ModelFile& model) {
  std::vector<std::vector<float>> values;
  VisitTensors(model.tensors(), [&](const TensorView& tensor) {
    values.emplace_back(static_cast<size_t>(tensor.rows * tensor.columns));
    for (int64_t row = 0; row < tensor.rows; ++row)
      Dequantize(tensor.dtype, tensor.data + static_cast<uint64_t>(row) * RowBytes(tensor.dtype, tensor.columns),
                 tensor.columns, values.back().data() + row * tensor.columns);
  });
  return values;
}

std::vector<std::byte> Quantized(DType type, const std::vector<float>& values) {
  std::vector<std::byte> out(RowBytes(type, values.size()));
  const absl::Status status = Quantize(type, values.data(), static_cast<int64_t>(values.size()), out.data());
  CHECK(status.ok()) << status;
  return out;
}

std::vector<float> Dequantized(DType type, const std::vector<std::byte>& bytes, size_t count) {
  std::vector<float> values(count);
  Dequantize(type, bytes.data(), static_cast<int64_t>(count), values.data());
  return values;
}

TEST(Quantize, RoundsToTheNearestHalf) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> in = {0,        -0.0f,        1,   -2,  65504, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 0x1p-24f,
                                 0x1p-25f, 3 * 0x1p-25f, inf, -inf};
  const std::vector<float> want = {0, -0.0f, 1, -2, 65504, 1, 1 + 0x1p-9f, 0x1p-24f, 0, 0x1p-23f, inf, -inf};
  EXPECT_EQ(Dequantized(DType::kF16, Quantized(DType::kF16, in), in.size()), want);
  std::byte out[2];
  for (const float beyond : {65520.0f, -1e30f})
    EXPECT_THAT(Quantize(DType::kF16, &beyond, 1, out).message(), HasSubstr("beyond the range"));
  const std::vector<float> nan = {std::nanf("")};
  EXPECT_TRUE(std::isnan(Dequantized(DType::kF16, Quantized(DType::kF16, nan), 1)[0]));
}

TEST(Quantize, KeepsEveryHalfAsItIs) {
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    std::vector<std::byte> half(2);
    const auto low = static_cast<uint16_t>(bits);
    std::memcpy(half.data(), &low, 2);
    const std::vector<float> value = Dequantized(DType::kF16, half, 1);
    if (std::isnan(value[0])) continue;
    ASSERT_EQ(Quantized(DType::kF16, value), half) << bits;
  }
}

TEST(Quantize, RoundsToTheNearestBFloat16) {
  const std::vector<float> in = {1, 1 + 0x1p-8f, 1 + 3 * 0x1p-8f, -3.0e38f, 1 + 0x1.02p-8f};
  const std::vector<float> want = {1, 1, 1 + 0x1p-6f, -0x1.c4p127f, 1 + 0x1p-7f};
  EXPECT_EQ(Dequantized(DType::kBF16, Quantized(DType::kBF16, in), in.size()), want);
}

// Blocks computed by hand from ggml's reference: scale = max / -8 of the value of the largest magnitude.
TEST(Quantize, FollowsGgmlsReferenceForQ4) {
  std::vector<float> values(32, 0.0f);
  values[0] = -8;
  values[1] = 7;
  values[2] = 7.9f;   // 15.9 + 0.5 is cut to 16, held at 15
  values[16] = 0.5f;  // rounds up
  values[17] = -0.51f;
  const std::vector<float> got = Dequantized(DType::kQ4_0, Quantized(DType::kQ4_0, values), 32);
  EXPECT_EQ(got[0], -8);
  EXPECT_EQ(got[1], 7);
  EXPECT_EQ(got[2], 7);
  EXPECT_EQ(got[16], 1);
  EXPECT_EQ(got[17], -1);
}

TEST(Quantize, RoundsQ8HalvesAwayFromZero) {
  std::vector<float> values(32, 0.0f);
  values[0] = 127;
  values[1] = 2.5f;
  values[2] = -2.5f;
  const std::vector<float> got = Dequantized(DType::kQ8_0, Quantized(DType::kQ8_0, values), 32);
  EXPECT_EQ(got[0], 127);
  EXPECT_EQ(got[1], 3);
  EXPECT_EQ(got[2], -3);
}

TEST(Quantize, BringsBlocksOfNothingAndNextToNothingToZero) {
  for (const float value : {0.0f, 1e-45f, 1e-40f})
    for (const DType type : {DType::kQ4_0, DType::kQ8_0})
      EXPECT_THAT(Dequantized(type, Quantized(type, std::vector<float>(32, value)), 32), Each(0.0f));
}

TEST(Quantize, RefusesBlocksWithValuesThatAreNotFinite) {
  std::byte out[34];
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(32, 1.0f);
    values[31] = bad;
    for (const DType type : {DType::kQ4_0, DType::kQ8_0})
      EXPECT_TRUE(absl::IsInvalidArgument(Quantize(type, values.data(), 32, out)));
  }
}

struct Way {
  ModelFormat format;
  const char* name;
};

class ConvertTest : public ::testing::TestWithParam<Way> {
 protected:
  std::string Path(const std::string& stem) const { return dir_ / (stem + GetParam().name); }
  ConvertSummary MustConvert(const ModelFile& source, const std::string& path, std::optional<DType> type = {},
                             int threads = 1) const {
    const auto summary = Convert(source, path, {.format = GetParam().format, .type = type, .threads = threads});
    CHECK(summary.ok()) << summary.status();
    return *summary;
  }
  TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(Formats, ConvertTest,
                         ::testing::Values(Way{ModelFormat::kGguf, ".gguf"}, Way{ModelFormat::kHf, "_directory"}),
                         [](const auto& info) { return info.param.format == ModelFormat::kGguf ? "Gguf" : "Hf"; });

TEST_P(ConvertTest, KeepsEveryValueOfAnF32Model) {
  for (const ModelConfig& config : {TinyConfig(), TinyDenseConfig()})
    for (const bool tied : {true, false}) {
      const TinyModel source(config, tied);
      const std::string path = Path(config.architecture + (tied ? "_tied" : ""));
      EXPECT_EQ(MustConvert(source, path).weight_bytes, source.weight_bytes());
      const auto copy = MustOpen(path);
      EXPECT_EQ(Values(*copy), Values(source));
      EXPECT_EQ(copy->tensors().head.data == copy->tensors().embedding.data, tied);
    }
}

TEST_P(ConvertTest, KeepsConfigurationAndTokenizer) {
  ModelConfig config = TinyConfig();
  config.normalize_topk = false;
  config.routed_scaling = 2.5f;
  config.rope_theta = 5e6f;
  config.head_dim = 32;
  TinyModel source(config);
  source.set_chat_template("{{ bos_token }}");
  MustConvert(source, Path("a"));
  const auto copy = MustOpen(Path("a"));
  EXPECT_FALSE(copy->config().normalize_topk);
  EXPECT_EQ(copy->config().routed_scaling, 2.5f);
  EXPECT_EQ(copy->config().rope_theta, 5e6f);
  EXPECT_EQ(copy->config().norm_eps, config.norm_eps);
  EXPECT_EQ(copy->config().head_dim, 32);
  EXPECT_EQ(copy->chat_template(), "{{ bos_token }}");
  ASSERT_TRUE(copy->tokenizer().ok());
  EXPECT_EQ(copy->tokenizer()->tokens, TinyTokenizer().tokens);
  EXPECT_EQ(copy->tokenizer()->added.size(), 4u);
  EXPECT_EQ(copy->tokenizer()->bos, 259);
  EXPECT_TRUE(copy->tokenizer()->ignore_merges && copy->tokenizer()->add_bos);
}

TEST_P(ConvertTest, ConvertsMatricesAndLeavesTheSmallOnesF32) {
  for (const DType type : {DType::kF16, DType::kBF16}) {
    const std::string path = Path(std::string(Name(type)));
    MustConvert(TinyModel(TinyConfig()), path, type);
    const auto copy = MustOpen(path);
    const LayerTensors& layer = copy->tensors().layers[2];
    EXPECT_EQ(copy->tensors().embedding.dtype, type);
    EXPECT_EQ(layer.experts[0].down.dtype, type);
    for (const TensorView* tensor : {&layer.operator_norm, &layer.router, &layer.expert_bias, &layer.conv_kernel})
      EXPECT_EQ(tensor->dtype, DType::kF32);
  }
}

TEST_P(ConvertTest, WritesTheSameBytesOnAnyNumberOfThreads) {
  const TinyModel source(TinyConfig());
  MustConvert(source, Path("one"), DType::kF16, 1);
  MustConvert(source, Path("three"), DType::kF16, 3);
  EXPECT_EQ(MustOpen(Path("one"))->digest(), MustOpen(Path("three"))->digest());
}

TEST_P(ConvertTest, LeavesNothingBehindWhenItFails) {
  TinyModel source(TinyConfig());
  source.values().back().back() = 1e30f;
  const auto summary = Convert(source, Path("a"), {.format = GetParam().format, .type = DType::kF16});
  EXPECT_THAT(summary.status().message(), HasSubstr("tensor 'layer 2 down', row 63"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / ""));
}

TEST_P(ConvertTest, NeverOverwrites) {
  const TinyModel source(TinyConfig());
  WriteFile(Path("a"), "precious");
  EXPECT_TRUE(absl::IsAlreadyExists(Convert(source, Path("a"), {.format = GetParam().format}).status()));
  EXPECT_EQ(ReadFile(Path("a")), "precious");
}

TEST_P(ConvertTest, RefusesATokenizerItDoesNotHave) {
  TinyModel source(TinyConfig());
  source.set_tokenizer(absl::InvalidArgumentError("it is odd"));
  EXPECT_THAT(Convert(source, Path("a"), {.format = GetParam().format}).status().message(),
              HasSubstr("tokenizer cannot be converted: it is odd"));
}

TEST_P(ConvertTest, ReportsProgressUpToTheTotal) {
  uint64_t last = 0, total = 0;
  const TinyModel source(TinyConfig());
  const auto progress = [&](uint64_t done, uint64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
  };
  ASSERT_TRUE(Convert(source, Path("a"), {.format = GetParam().format, .progress = progress}).ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, source.weight_bytes());
}

TEST(ConvertToGguf, QuantisesButKeepsTheEmbeddingFiner) {
  const TempDir dir;
  ASSERT_TRUE(Convert(TinyModel(TinyConfig()), dir / "q4.gguf", {.type = DType::kQ4_0}).ok());
  const auto q4 = MustOpen(dir / "q4.gguf");
  EXPECT_EQ(q4->tensors().embedding.dtype, DType::kQ8_0);
  EXPECT_EQ(q4->tensors().layers[0].conv_in.dtype, DType::kQ4_0);
  EXPECT_EQ(q4->tensors().layers[1].experts[3].up.dtype, DType::kQ4_0);
  const std::vector<std::vector<float>> exact = Values(TinyModel(TinyConfig())), got = Values(*q4);
  for (size_t i = 0; i < exact.size(); ++i)
    for (size_t j = 0; j < exact[i].size(); ++j) ASSERT_NEAR(got[i][j], exact[i][j], 0.07) << i;  // 0.5 / 8 a step
}

TEST(ConvertToGguf, SaysWhichMatricesHaveNoWholeBlocks) {
  const TempDir dir;
  ModelConfig config = TinyConfig();
  config.expert_ffn_dim = 40;
  const auto summary = Convert(TinyModel(config), dir / "a.gguf", {.type = DType::kQ8_0});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_THAT(summary->notes, ElementsAre(HasSubstr("blk.1.ffn_down_exps.weight stays F16"),
                                          HasSubstr("blk.2.ffn_down_exps.weight stays F16")));
  EXPECT_EQ(MustOpen(dir / "a.gguf")->tensors().layers[1].experts[0].down.dtype, DType::kF16);
}

TEST(ConvertToGguf, GivesAModelWithoutExpertBiasesZeros) {
  const TempDir dir;
  ModelConfig config = TinyConfig();
  config.use_expert_bias = false;
  ASSERT_TRUE(Convert(TinyModel(config), dir / "a.gguf", {}).ok());
  const auto model = MustOpen(dir / "a.gguf");
  EXPECT_TRUE(model->config().use_expert_bias);
  const TensorView& bias = model->tensors().layers[1].expert_bias;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bias.data), bias.bytes()), std::string(16, '\0'));
}

TEST(ConvertToGguf, RefusesWhatGgufCannotSayOfATokenizer) {
  const TempDir dir;
  TinyModel source(TinyConfig());
  TokenizerSpec spec = TinyTokenizer();
  spec.added[3].lstrip = true;
  source.set_tokenizer(spec);
  EXPECT_THAT(Convert(source, dir / "a.gguf", {}).status().message(), HasSubstr("'<think>' strips its surroundings"));
  spec = TinyTokenizer();
  spec.pre_tokenizer = TokenizerSpec::PreTokenizer::kQwen2;
  source.set_tokenizer(spec);
  EXPECT_THAT(Convert(source, dir / "a.gguf", {}).status().message(), HasSubstr("no name for this pre-tokenizer"));
}

TEST(ConvertToHf, RefusesBlockTypes) {
  const TempDir dir;
  const TinyModel source(TinyConfig());
  EXPECT_THAT(Convert(source, dir / "a", {.format = ModelFormat::kHf, .type = DType::kQ4_0}).status().message(),
              HasSubstr("safetensors has no Q4_0"));
  EXPECT_THAT(Convert(source, dir / "a.gguf", {.type = DType::kQ6_K}).status().message(), HasSubstr("writing Q6_K"));
}

// GGUF to directory to GGUF: bytes that went through quantisation once do not change again.
TEST(Convert, GoesRoundInBothDirections) {
  const TempDir dir;
  ASSERT_TRUE(Convert(TinyModel(TinyConfig()), dir / "tiny.gguf", {.type = DType::kBF16}).ok());
  const auto first = MustOpen(dir / "tiny.gguf");
  ASSERT_TRUE(Convert(*first, dir / "tiny", {.format = ModelFormat::kHf}).ok());
  const auto directory = MustOpen(dir / "tiny");
  EXPECT_EQ(Values(*directory), Values(*first));
  ASSERT_TRUE(Convert(*directory, dir / "again.gguf", {}).ok());
  EXPECT_EQ(ReadFile(dir / "again.gguf"), ReadFile(dir / "tiny.gguf"));
  ASSERT_TRUE(Convert(*directory, dir / "copy", {.format = ModelFormat::kHf, .type = DType::kF32}).ok());
  EXPECT_EQ(ReadFile(dir / "copy/tokenizer.json"), ReadFile(dir / "tiny/tokenizer.json"));
  EXPECT_THAT(ReadFile(dir / "copy/config.json"), HasSubstr("\"dtype\": \"float32\""));
}

TEST(Inspect, TellsShapeWeightsMemoryAndText) {
  const std::string text = DescribeModel(TinyModel(TinyConfig()));
  for (const char* part :
       {"architecture      lfm2moe", "3: 2 conv of 3 taps, 1 attention", "4 of 32 in 2 layers, 2 per token", "272",
        "F32", "byte-level BPE, LFM2 pre-tokenizer, 262 tokens, 2 merges, 4 added", "chat template     none",
        "of keys and values per 1,000 tokens"})
    EXPECT_THAT(text, HasSubstr(part));
}

}  // namespace
}  // namespace braid
