#include "expert_worker/load_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "base/check.h"
#include "model/convert.h"
#include "model/test_files.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using testing::HasSubstr;

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
    model_ = MustOpen(path_);
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
  EXPECT_TRUE(LoadWeights(*model_, [] { return false; }).ok());
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
  EXPECT_TRUE(LoadWeights(*model_, never, WeightsToLoad::kAllButExperts).ok());
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
  ExpertLoader loader(model_.get());
  EXPECT_TRUE(loader.Load(placement, /*rank=*/1, never).ok());
  EXPECT_GE(ResidentKib(path_), others + first_of_each);
  EXPECT_LT(ResidentKib(path_), others + first_of_each + slack);
  EXPECT_TRUE(loader.Load(placement, /*rank=*/0, never).ok());
  EXPECT_GE(ResidentKib(path_), whole);

  ForgetPages();
  EXPECT_TRUE(loader.Load(placement, /*rank=*/0, never).ok());
  EXPECT_LT(ResidentKib(path_), slack) << "they were read in already";
  EXPECT_TRUE(loader.Load(placement, /*rank=*/1, [] { return true; }).ok());
  EXPECT_TRUE(loader.Load(placement, /*rank=*/1, never).ok());
  EXPECT_GE(ResidentKib(path_), first_of_each) << "the call before was stopped";
}

TEST_F(LoadWeightsTest, EndsWhenToldTo) {
  int asked = 0;
  EXPECT_TRUE(LoadWeights(*model_, [&asked] { return ++asked > 2; }).ok());
  EXPECT_EQ(asked, 3);
}

TEST_F(LoadWeightsTest, NamesTheTensorThatCannotBeRead) {
  ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(model_->weight_bytes() / 2)), 0);
  const absl::Status status = LoadWeights(*model_, [] { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk."));
}

}  // namespace
}  // namespace braid
