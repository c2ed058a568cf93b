#include "expert_worker/load_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "base/check.h"
#include "model/convert.h"
#include "model/test_files.h"

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
