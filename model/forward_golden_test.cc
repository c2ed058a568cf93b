// The forward pass against transformers in float32 with keys and values rounded as ours are: every directory of
// tests/goldens/models, and the demo model, is a model with a file logits.safetensors beside it: input_ids (n) and the
// logits (n, V) of all its positions.

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>

#include "base/mapped_file.h"
#include "model/forward_fixture.h"
#include "model/model_file.h"
#include "model/safetensors_file.h"

namespace braid {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> GoldenDirectories() {
  std::vector<std::string> found;
  if (fs::exists("model/demo/logits.safetensors")) found.push_back("model/demo");
  if (fs::exists("tests/goldens/models"))
    for (const auto& entry : fs::directory_iterator("tests/goldens/models")) found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

struct Golden {
  std::vector<TokenId> tokens;
  std::vector<float> logits;
};

template <typename T>
std::vector<T> As(const StoredTensor& tensor) {
  std::vector<T> values(tensor.data.size() / sizeof(T));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

Golden ReadGolden(const std::string& directory) {
  const auto file = MappedFile::Open(directory + "/logits.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return {};
  const auto tensors = ParseSafetensors((*file)->bytes());
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  if (!tensors.ok()) return {};
  Golden golden;
  for (const StoredTensor& tensor : *tensors) {
    if (tensor.name == "logits") golden.logits = As<float>(tensor);
    if (tensor.name == "input_ids" && tensor.type == "I32") golden.tokens = As<TokenId>(tensor);
    if (tensor.name == "input_ids" && tensor.type == "I64")
      for (int64_t id : As<int64_t>(tensor)) golden.tokens.push_back(static_cast<TokenId>(id));
  }
  return golden;
}

class ForwardGolden : public testing::TestWithParam<std::string> {};

TEST_P(ForwardGolden, AgreesWithTransformersPrefilledWholeOrCutOrTokenByToken) {
  const auto model = ModelFile::Open(GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const Golden golden = ReadGolden(GetParam());
  ASSERT_FALSE(golden.tokens.empty());
  ASSERT_EQ(golden.logits.size(), golden.tokens.size() * (*model)->config().vocab_size);
  const auto [least, most] = std::ranges::minmax(golden.logits);
  const int n = static_cast<int>(golden.tokens.size());
  for (int piece : {n, 7, 1}) {
    ForwardFixture fixture(&(*model)->config(), &(*model)->tensors(), 2);
    const std::vector<float> got = fixture.Logits(golden.tokens, piece);
    ASSERT_EQ(got.size(), golden.logits.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << i;
      worst = std::max(worst, std::abs(double{got[i]} - double{golden.logits[i]}));
    }
    // Float32 alone differs by some 1e-6. But a key or value that lies between two bfloat16 numbers to within that may
    // be rounded the other way: all roundings together move the logits by 1.6e-3 (against float32 keys and values),
    // so one of some 3,000 by 2 * 1.6e-3 / sqrt(3000) = 6e-5, and it happens to a few.
    EXPECT_LE(worst, 2e-4 * (most - least)) << "in pieces of " << piece;
  }
}

// No directories are a failure: GoogleTest's own, about a suite that is never instantiated.
INSTANTIATE_TEST_SUITE_P(Models, ForwardGolden, testing::ValuesIn(GoldenDirectories()), [](const auto& info) {
  std::string name;
  for (char c : info.param) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
});

}  // namespace
}  // namespace braid
