// Files whose weights lie in panels: written, opened, refused, unpacked.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/panels.h"
#include "model/convert.h"
#include "model/gguf_file.h"
#include "model/inspect.h"
#include "model/packed_seal.h"
#include "model/tensor_rows.h"
#include "model/test_files.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The bytes of every tensor as a file has them that is not packed.
std::vector<std::string> InRows(const ModelFile& model) {
  std::vector<std::string> tensors;
  VisitTensors(model.tensors(), [&](const TensorView& tensor) {
    TensorRows rows(tensor);
    std::string& bytes = tensors.emplace_back();
    for (int64_t row = 0; row < tensor.rows; ++row)
      bytes.append(reinterpret_cast<const char*>(rows.Row(row)), rows.row_bytes());
  });
  return tensors;
}

ConvertSummary MustConvert(const ModelFile& source, const std::string& path, const ConvertOptions& options) {
  const auto summary = Convert(source, path, options);
  CHECK(summary.ok()) << summary.status();
  return *summary;
}

// Rows that fill no panel, an expert's matrix that is more than one, and sizes that do not divide by a page.
ModelConfig OddConfig() {
  ModelConfig config = TinyConfig();
  config.vocab_size = 275;
  config.expert_ffn_dim = 96;
  return config;
}

class PackedFileTest : public ::testing::TestWithParam<bool> {
 protected:
  PackedFileTest() : source_(OddConfig(), /*tied_head=*/GetParam()) {
    MustConvert(source_, gguf_, {.type = DType::kQ4_0});
    MustConvert(*MustOpen(gguf_), packed_, {.format = ModelFormat::kPacked});
    bytes_ = ReadFile(packed_);
  }

  absl::Status Open(const std::string& bytes) {
    WriteFile(other_, bytes);
    return ModelFile::Open(other_).status();
  }
  std::string Refusal(const std::string& bytes) {
    const absl::Status status = Open(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }
  // The file with the number after a key, or a tensor's name, changed.
  std::string WithNumber(std::string_view after, size_t distance, uint32_t value) const {
    std::string bytes = bytes_;
    const size_t at = bytes.find(after);
    CHECK(at != std::string::npos) << after;
    std::memcpy(bytes.data() + at + after.size() + distance, &value, sizeof value);
    return bytes;
  }

  const TempDir dir_;
  const std::string gguf_ = dir_ / "model.gguf", packed_ = dir_ / "packed.gguf", other_ = dir_ / "other.gguf";
  const TinyModel source_;
  std::string bytes_;
};

INSTANTIATE_TEST_SUITE_P(Heads, PackedFileTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tied" : "Untied"; });

TEST_P(PackedFileTest, IsTheModelItWasPackedFrom) {
  const auto gguf = MustOpen(gguf_), packed = MustOpen(packed_);
  EXPECT_EQ(packed->digest(), gguf->digest());
  EXPECT_EQ(InRows(*packed), InRows(*gguf));
  EXPECT_EQ(packed->config().name, gguf->config().name);
  EXPECT_EQ(packed->tensors().head.data == packed->tensors().embedding.data, GetParam());
}

TEST_P(PackedFileTest, HasEveryMatrixOfABlockTypeInAlignedPanels) {
  const auto packed = MustOpen(packed_);
  int matrices = 0, others = 0;
  VisitMatrices(packed->tensors(), [&](const TensorView& tensor) {
    ++matrices;
    EXPECT_EQ(tensor.layout, Layout::kPanels) << tensor.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % kPanelAlignment, 0u) << tensor.name;
  });
  VisitTensors(packed->tensors(), [&](const TensorView& tensor) {
    if (tensor.layout == Layout::kPanels) --matrices;
    if (tensor.layout == Layout::kRows) ++others;
  });
  EXPECT_EQ(matrices, 0);
  EXPECT_GT(others, 0);
  const FfnTensors& expert = packed->tensors().layers[1].experts[2];
  EXPECT_EQ(expert.gate.bytes(), PackedBytes(DType::kQ4_0, 96, 64));
}

TEST_P(PackedFileTest, UnpacksToTheSameGguf) {
  MustConvert(*MustOpen(packed_), other_, {});
  EXPECT_EQ(ReadFile(other_), ReadFile(gguf_));
}

TEST_P(PackedFileTest, PacksAPackedFileToItself) {
  MustConvert(*MustOpen(packed_), other_, {.format = ModelFormat::kPacked});
  EXPECT_EQ(ReadFile(other_), bytes_);
}

TEST_P(PackedFileTest, IsTheSameOnAnyNumberOfThreads) {
  MustConvert(*MustOpen(gguf_), other_, {.format = ModelFormat::kPacked, .threads = 3});
  EXPECT_EQ(ReadFile(other_), bytes_);
}

TEST_P(PackedFileTest, QuantisesOnTheWay) {
  MustConvert(source_, other_, {.format = ModelFormat::kPacked, .type = DType::kQ4_0});
  EXPECT_EQ(MustOpen(other_)->digest(), MustOpen(gguf_)->digest());
  EXPECT_EQ(ReadFile(other_), bytes_);
}

TEST_P(PackedFileTest, MayBeLargerThanTheTypesThatHavePanels) {
  const ConvertSummary summary = MustConvert(source_, other_, {.format = ModelFormat::kPacked});
  EXPECT_THAT(summary.notes, ElementsAre(HasSubstr("no matrix is of a block type")));
  EXPECT_EQ(InRows(*MustOpen(other_)), InRows(source_));
}

TEST_P(PackedFileTest, BecomesADirectory) {
  MustConvert(*MustOpen(packed_), dir_ / "hf", {.format = ModelFormat::kHf, .type = DType::kF32});
  MustConvert(*MustOpen(gguf_), dir_ / "hf2", {.format = ModelFormat::kHf, .type = DType::kF32});
  EXPECT_EQ(InRows(*MustOpen(dir_ / "hf")), InRows(*MustOpen(dir_ / "hf2")));
}

TEST_P(PackedFileTest, SaysSoToPeople) {
  EXPECT_THAT(DescribeModel(*MustOpen(packed_)),
              AllOf(HasSubstr("packed: mapped as it is"), HasSubstr("Q4_0 in panels")));
  EXPECT_THAT(DescribeModel(*MustOpen(gguf_)), HasSubstr("packed into memory at each start; braid convert"));
  EXPECT_THAT(DescribeModel(source_), HasSubstr("rows, of floats: mapped as it is"));
}

TEST_P(PackedFileTest, RefusesAnotherLayoutVersionWithTheRemedy) {
  const std::string message = Refusal(WithNumber("braid.layout.version", 4, 2));
  EXPECT_THAT(message, HasSubstr("layout version 2, this program reads version 1"));
  EXPECT_THAT(message, HasSubstr("braid convert SRC DST --format packed"));
  EXPECT_THAT(Refusal(WithNumber("braid.layout.version", 4, 0)), HasSubstr("braid.layout.version' is 0"));
}

TEST_P(PackedFileTest, RefusesPanelsWithoutAVersionOrAlignment) {
  std::string bytes = bytes_;
  bytes.replace(bytes.find("braid.layout.version"), 5, "blaid");
  EXPECT_THAT(Refusal(bytes), HasSubstr("in panels in a file without key 'braid.layout.version'"));
  EXPECT_THAT(Refusal(WithNumber("general.alignment", 4, 32)), HasSubstr("aligned to less than 64 bytes"));
}

TEST_P(PackedFileTest, RefusesVectorsInPanels) {
  // After a tensor's name: dimensions, lengths, type.
  const uint32_t panels = GgmlTypeNumber(DType::kQ4_0, Layout::kPanels);
  EXPECT_THAT(Refusal(WithNumber("blk.0.attn_norm.weight", 4 + 8, panels)), HasSubstr("in panels, but no matrix"));
  EXPECT_THAT(Refusal(WithNumber("blk.1.ffn_gate_inp.weight", 4 + 16, panels)),
              HasSubstr("which only matrices can be"));
}

TEST_P(PackedFileTest, RefusesWhatIsNotWhatWasPacked) {
  const auto packed = MustOpen(packed_);
  // A byte of the sample that the digest takes from the middle, and a number of the configuration.
  const TensorView& tensor = packed->tensors().layers[2].experts[1].down;
  const size_t middle = static_cast<size_t>(tensor.data - packed->tensors().embedding.data) + tensor.bytes() / 2;
  std::string bytes = bytes_;
  const size_t data = static_cast<size_t>(bytes.size() - bytes.size() % 4096);
  EXPECT_GT(data, middle);
  const size_t begin = bytes.find(std::string(reinterpret_cast<const char*>(packed->tensors().embedding.data), 4096));
  ASSERT_NE(begin, std::string::npos);
  bytes[begin + middle] ^= 1;
  EXPECT_THAT(Refusal(bytes), AllOf(HasSubstr("is not what was packed"), HasSubstr("pack the model again")));
  EXPECT_THAT(Refusal(WithNumber("lfm2moe.rope.freq_base", 4, 0x4f000000)), HasSubstr("is not what was packed"));
}

TEST_P(PackedFileTest, FindsEveryDamagedTensor) {
  ThreadPool pool(2);
  const auto progress = [](uint64_t done, uint64_t total) { EXPECT_LE(done, total); };
  EXPECT_TRUE(VerifyPackedFile(packed_, &pool, progress).ok());
  const auto file = ReadFile(packed_);
  const absl::StatusOr<GgufFile> gguf = GgufFile::Parse(std::as_bytes(std::span(file)));
  ASSERT_TRUE(gguf.ok());
  for (const StoredTensor& tensor : gguf->tensors()) {
    std::string bytes = bytes_;
    bytes[static_cast<size_t>(reinterpret_cast<const char*>(tensor.data.data()) - file.data())] ^= 0x10;
    WriteFile(other_, bytes);
    const absl::Status status = VerifyPackedFile(other_, &pool, progress);
    if (absl::IsInvalidArgument(status)) continue;  // small enough for its first byte to be in the digest
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("'" + tensor.name + "'"));
  }
  EXPECT_THAT(VerifyPackedFile(gguf_, &pool, progress).message(), HasSubstr("has no hashes"));
}

TEST_P(PackedFileTest, RefusesAFileCutAnywhere) {
  std::mt19937 random(3);
  const size_t end = bytes_.size() - kPackedAlignment;  // what comes after the last tensor may be missing
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(absl::IsInvalidArgument(Open(bytes_.substr(0, random() % end))));
}

// Whatever opens can be read from end to end. The digest is left out, so that more opens.
TEST_P(PackedFileTest, SurvivesMutations) {
  const size_t header_bytes = bytes_.find("blk.2.ffn_down_exps.weight") + 60;
  std::mt19937 random(4);
  int parsed = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = bytes_;
    bytes[random() % header_bytes] = static_cast<char>(random());
    const absl::StatusOr<GgufFile> file = GgufFile::Parse(std::as_bytes(std::span(bytes)));
    if (!file.ok()) continue;
    ++parsed;
    unsigned sum = 0;
    for (const StoredTensor& tensor : file->tensors()) {
      ASSERT_GE(tensor.data.data(), reinterpret_cast<const std::byte*>(bytes.data()));
      ASSERT_LE(tensor.data.data() + tensor.data.size(),
                reinterpret_cast<const std::byte*>(bytes.data() + bytes.size()));
      sum += static_cast<unsigned>(tensor.data.back());
    }
    EXPECT_GT(sum, 0u);
  }
  EXPECT_GT(parsed, 0);
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = bytes_;
    bytes[random() % header_bytes] = static_cast<char>(random());
    const absl::Status status = Open(bytes);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  }
}

}  // namespace
}  // namespace braid
