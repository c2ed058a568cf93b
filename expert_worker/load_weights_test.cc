#include "expert_worker/load_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/convert.h"
#include "model/test_files.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Kilobytes of `path` that are mapped into this process and present.
int64_t ResidentKib(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  int64_t total = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < 17) ours = line.ends_with(path);
    if (ours && line.starts_with("Rss:")) total += std::stoll(line.substr(4));
  }
  return total;
}

class LoadWeightsTest : public testing::Test {
 protected:
  LoadWeightsTest() : path_(directory_ / "model.gguf") {
    ModelConfig config = TinyConfig();
    config.expert_ffn_dim = 2048;  // some megabytes, so that pages touched while opening do not count
    CHECK(Convert(TinyModel(config), path_, {}).ok());
    RewriteByPages();
    model_ = MustOpen(path_);
  }

  // Huge pages in the page cache are mapped whole: too coarse to see what was asked for.
  void RewriteByPages() const {
    const std::string bytes = ReadFile(path_);
    CHECK(unlink(path_.c_str()) == 0);
    std::ofstream out(path_, std::ios::binary);
    for (size_t at = 0; at < bytes.size(); at += 4096)
      out.write(bytes.data() + at, static_cast<std::streamsize>(std::min<size_t>(4096, bytes.size() - at))).flush();
    CHECK(out.good());
  }

  // Opening has touched some.
  void ForgetPages() {
    VisitTensors(model_->tensors(), [](const TensorView& tensor) {
      const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
      const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data) / page * page;
      const uintptr_t end = reinterpret_cast<uintptr_t>(tensor.data) + tensor.bytes();
      CHECK(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED) == 0);
    });
  }

  const TempDir directory_;
  const std::string path_;
  std::unique_ptr<ModelFile> model_;
};

TEST_F(LoadWeightsTest, BringsEveryPageIn) {
  const auto whole = static_cast<int64_t>(model_->weight_bytes() / 1024);
  EXPECT_LT(ResidentKib(path_), whole);
  EXPECT_TRUE(LoadWeights(*model_, 2, [] { return false; }).ok());
  EXPECT_GE(ResidentKib(path_), whole);
}

TEST_F(LoadWeightsTest, LeavesExpertsOutUntilTheyArePlacedHere) {
  int64_t experts_bytes = 0;
  for (const LayerTensors& layer : model_->tensors().layers) {
    for (const FfnTensors& ffn : layer.experts) {
      experts_bytes += static_cast<int64_t>(ffn.gate.bytes() + ffn.up.bytes() + ffn.down.bytes());
    }
  }
  const int64_t whole = static_cast<int64_t>(model_->weight_bytes()) / 1024, experts = experts_bytes / 1024;
  const int64_t others = whole - experts, slack = experts / 10;  // neighbours of a page come with it
  const auto never = [] { return false; };
  ForgetPages();
  const auto weights = *WorkerWeights::Create(model_.get(), 2);
  EXPECT_FALSE(weights->packs());
  EXPECT_TRUE(weights->Load(WorkerWeights::What::kAllButExperts, never).ok());
  EXPECT_GE(ResidentKib(path_), others);
  EXPECT_LT(ResidentKib(path_), others + slack);

  v1::LayerPlacement layer;
  for (int i = 0; i < model_->config().experts; ++i) {
    layer.add_replicas(1);
    layer.add_ranks(i == 0 ? 1 : 0);
  }
  const std::vector<ExpertRanks> placement(model_->config().moe_layer_count(),
                                           *ExpertRanks::Parse(layer, model_->config().experts, 2));
  const int64_t first_of_each = experts / model_->config().experts;
  EXPECT_TRUE(weights->LoadExperts(placement, /*rank=*/1, never).ok());
  EXPECT_GE(ResidentKib(path_), others + first_of_each);
  EXPECT_LT(ResidentKib(path_), others + first_of_each + slack);
  EXPECT_TRUE(weights->LoadExperts(placement, /*rank=*/0, never).ok());
  EXPECT_GE(ResidentKib(path_), whole);

  ForgetPages();
  EXPECT_TRUE(weights->LoadExperts(placement, /*rank=*/0, never).ok());
  EXPECT_LT(ResidentKib(path_), slack) << "they were read in already";
  EXPECT_TRUE(weights->LoadExperts(placement, /*rank=*/1, [] { return true; }).ok());
  EXPECT_TRUE(weights->LoadExperts(placement, /*rank=*/1, never).ok());
  EXPECT_GE(ResidentKib(path_), first_of_each) << "the call before was stopped";
}

TEST_F(LoadWeightsTest, EndsWhenToldTo) {
  int asked = 0;
  EXPECT_TRUE(LoadWeights(*model_, 1, [&asked] { return ++asked > 2; }).ok());
  EXPECT_EQ(asked, 3);
}

TEST_F(LoadWeightsTest, NamesTheTensorThatCannotBeRead) {
  ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(model_->weight_bytes() / 2)), 0);
  const absl::Status status = LoadWeights(*model_, 2, [] { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk."));
}

// A file of block types in rows, and the same packed.
class PackingTest : public testing::Test {
 protected:
  PackingTest() {
    ModelConfig config = TinyConfig();
    config.expert_ffn_dim = 2048;
    CHECK(Convert(TinyModel(config), rows_path_, {.type = DType::kQ8_0}).ok());
    rows_ = MustOpen(rows_path_);
    CHECK(Convert(*rows_, packed_path_, {.format = ModelFormat::kPacked}).ok());
    packed_ = MustOpen(packed_path_);
  }

  static bool Same(const TensorView& a, const TensorView& b) {
    CHECK(a.layout == b.layout && a.bytes() == b.bytes());
    return std::memcmp(a.data, b.data, a.bytes()) == 0;
  }
  // Of the experts, by MoE layer and number, those that are as the packed file has them.
  std::vector<int> ExpertsHere(const ModelTensors& tensors) const {
    std::vector<int> here;
    for (size_t layer = 0; layer < tensors.layers.size(); ++layer) {
      const std::vector<FfnTensors>& experts = tensors.layers[layer].experts;
      for (size_t e = 0; e < experts.size(); ++e) {
        const FfnTensors& want = packed_->tensors().layers[layer].experts[e];
        if (Same(experts[e].gate, want.gate) && Same(experts[e].up, want.up) && Same(experts[e].down, want.down))
          here.push_back(static_cast<int>(layer * 100 + e));
      }
    }
    return here;
  }
  // Expert e of every layer at rank e.
  std::vector<ExpertRanks> OneEach() const {
    v1::LayerPlacement layer;
    for (int e = 0; e < rows_->config().experts; ++e) {
      layer.add_replicas(1);
      layer.add_ranks(static_cast<uint32_t>(e));
    }
    return std::vector<ExpertRanks>(rows_->config().moe_layer_count(),
                                    *ExpertRanks::Parse(layer, rows_->config().experts, rows_->config().experts));
  }
  static bool Never() { return false; }

  const TempDir directory_;
  const std::string rows_path_ = directory_ / "rows.gguf", packed_path_ = directory_ / "packed.gguf";
  std::unique_ptr<ModelFile> rows_, packed_;
};

TEST_F(PackingTest, MakesOfAFileInRowsWhatThePackedFileIs) {
  const auto weights = *WorkerWeights::Create(rows_.get(), 3);
  EXPECT_TRUE(weights->packs());
  ASSERT_TRUE(weights->Load(WorkerWeights::What::kAll, Never).ok());
  std::vector<const TensorView*> want;
  VisitTensors(packed_->tensors(), [&](const TensorView& tensor) { want.push_back(&tensor); });
  size_t i = 0;
  VisitTensors(weights->tensors(), [&](const TensorView& tensor) {
    EXPECT_TRUE(Same(tensor, *want.at(i))) << tensor.name;
    ++i;
  });
  EXPECT_EQ(i, want.size());
  EXPECT_EQ(weights->tensors().head.data, weights->tensors().embedding.data) << "tied: packed once";
}

TEST_F(PackingTest, LeavesAPackedFileWhereItIs) {
  const auto weights = *WorkerWeights::Create(packed_.get(), 1);
  EXPECT_FALSE(weights->packs());
  EXPECT_EQ(weights->tensors().layers[1].experts[0].up.data, packed_->tensors().layers[1].experts[0].up.data);
}

TEST_F(PackingTest, KeepsTheFileOutOfMemory) {
  const auto weights = *WorkerWeights::Create(rows_.get(), 1);
  ASSERT_TRUE(weights->Load(WorkerWeights::What::kAll, Never).ok());
  EXPECT_LT(ResidentKib(rows_path_), static_cast<int64_t>(rows_->weight_bytes() / 1024 / 4));
}

TEST_F(PackingTest, PacksExpertsWhenTheyArePlacedAndDropsThoseThatNobodyHolds) {
  const auto weights = *WorkerWeights::Create(rows_.get(), 2);
  ASSERT_TRUE(weights->Load(WorkerWeights::What::kAllButExperts, Never).ok());
  EXPECT_TRUE(Same(weights->tensors().embedding, packed_->tensors().embedding));
  EXPECT_THAT(ExpertsHere(weights->tensors()), IsEmpty());

  ExpertHold serving = *weights->LoadExperts(OneEach(), 0, Never);
  EXPECT_THAT(ExpertsHere(weights->tensors()), ElementsAre(100, 200));
  ExpertHold next = *weights->LoadExperts(OneEach(), 1, Never);
  EXPECT_THAT(ExpertsHere(weights->tensors()), ElementsAre(100, 101, 200, 201));
  next.reset();  // it came to nothing
  next = *weights->LoadExperts(OneEach(), 2, Never);
  EXPECT_THAT(ExpertsHere(weights->tensors()), ElementsAre(100, 102, 200, 202));
  serving.reset();
  EXPECT_THAT(ExpertsHere(weights->tensors()), ElementsAre(100, 102, 200, 202)) << "it may well come back";
  serving = *weights->LoadExperts(OneEach(), 0, Never);
  EXPECT_THAT(ExpertsHere(weights->tensors()), ElementsAre(100, 102, 200, 202));
}

TEST_F(PackingTest, IsCancelledByAStop) {
  const auto weights = *WorkerWeights::Create(rows_.get(), 1);
  int asked = 0;
  EXPECT_TRUE(absl::IsCancelled(weights->Load(WorkerWeights::What::kAll, [&asked] { return ++asked > 5; })));
}

TEST_F(PackingTest, NamesTheTensorThatCannotBeRead) {
  ASSERT_EQ(truncate(rows_path_.c_str(), static_cast<off_t>(rows_->weight_bytes() / 2)), 0);
  const auto weights = *WorkerWeights::Create(rows_.get(), 2);
  const absl::Status status = weights->Load(WorkerWeights::What::kAll, Never);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk."));
}

}  // namespace
}  // namespace braid
