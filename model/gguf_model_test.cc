#include "model/gguf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <set>

#include "base/check.h"
#include "model/convert.h"
#include "model/test_files.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void WriteGguf(const ModelFile& model, const std::string& path) {
  const auto summary = Convert(model, path, {.format = ModelFormat::kGguf});
  CHECK(summary.ok()) << summary.status();
}

void ReplaceOnce(std::string_view from, std::string_view to, std::string* text) {
  const size_t at = text->find(from);
  CHECK(at != std::string::npos) << from;
  text->replace(at, from.size(), to);
}

// A GGUF of the tiny model, to be altered.
class GgufModelTest : public ::testing::Test {
 protected:
  GgufModelTest() {
    WriteGguf(TinyModel(TinyConfig()), path_);
    bytes_ = ReadFile(path_);
  }

  // The bytes of a key's value, after its name and type.
  template <typename T>
  void SetKey(const std::string& key, T value) {
    const size_t at = bytes_.find(key);
    CHECK(at != std::string::npos) << key;
    std::memcpy(bytes_.data() + at + key.size() + 4, &value, sizeof value);
  }

  std::string Refusal() {
    WriteFile(path_, bytes_);
    const absl::Status status = ModelFile::Open(path_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(path_));
    return std::string(status.message());
  }

  template <typename T>
  std::string KeyRefusal(const std::string& key, T value) {
    const std::string kept = bytes_;
    SetKey("lfm2moe." + key, value);
    const std::string message = Refusal();
    bytes_ = kept;
    return message;
  }

  std::string RenameRefusal(std::string_view from, std::string_view to) {
    const std::string kept = bytes_;
    ReplaceOnce(from, to, &bytes_);
    const std::string message = Refusal();
    bytes_ = kept;
    return message;
  }

  absl::Status TokenizerStatus() {
    WriteFile(path_, bytes_);
    const auto model = ModelFile::Open(path_);
    return model.ok() ? (*model)->tokenizer().status() : model.status();
  }

  TempDir dir_;
  std::string path_ = dir_ / "tiny.gguf";
  std::string bytes_;
};

TEST_F(GgufModelTest, ReadsConfigurationTokenizerAndTensors) {
  const auto model = MustOpen(path_);
  const ModelConfig wanted = TinyConfig();
  EXPECT_EQ(model->config().name, "tiny");
  EXPECT_EQ(model->config().architecture, "lfm2moe");
  EXPECT_EQ(model->config().layers, wanted.layers);
  EXPECT_EQ(model->config().head_dim, wanted.head_dim);
  EXPECT_EQ(model->config().dense_layers, 1);
  EXPECT_EQ(model->config().expert_ffn_dim, wanted.expert_ffn_dim);
  EXPECT_TRUE(model->config().use_expert_bias);
  EXPECT_EQ(model->tensors().head.data, model->tensors().embedding.data);
  EXPECT_EQ(model->tensors().layers[1].experts.size(), 4u);
  EXPECT_TRUE(model->tensors().layers[0].dense.gate.data != nullptr);
  ASSERT_TRUE(model->tokenizer().ok());
  const TokenizerSpec& spec = *model->tokenizer();
  EXPECT_EQ(spec.tokens, TinyTokenizer().tokens);
  EXPECT_EQ(spec.merges, TinyTokenizer().merges);
  ASSERT_EQ(spec.added.size(), 4u);
  EXPECT_TRUE(spec.added[0].special);
  EXPECT_FALSE(spec.added[3].special);
  EXPECT_TRUE(spec.add_bos && spec.ignore_merges);
  EXPECT_EQ(spec.eos, 260);
}

TEST_F(GgufModelTest, RefusesMissingKeysByName) {
  EXPECT_THAT(RenameRefusal("general.architecture", "general.architectura"),
              HasSubstr("'general.architecture' is missing"));
  for (const std::string key : {"block_count", "embedding_length", "attention.head_count_kv", "rope.freq_base",
                                "shortconv.l_cache", "expert_count", "expert_feed_forward_length"}) {
    const std::string name = "lfm2moe." + key;
    EXPECT_THAT(RenameRefusal(name, "x" + name.substr(1)), HasSubstr("'" + name + "' is missing"));
  }
}

TEST_F(GgufModelTest, RefusesKeysThatContradictTheModel) {
  EXPECT_THAT(KeyRefusal("block_count", 4u), HasSubstr("3 entries for 4 layers"));
  EXPECT_THAT(KeyRefusal("block_count", ~0u), HasSubstr("block_count"));
  EXPECT_THAT(KeyRefusal("expert_count", 0u), HasSubstr("experts is 0"));
  EXPECT_THAT(KeyRefusal("expert_count", 1000000u), HasSubstr("experts is 1000000"));
  EXPECT_THAT(KeyRefusal("expert_count", 8u), AllOf(HasSubstr("ffn_gate_inp"), HasSubstr("[8, 64], got [4, 64]")));
  EXPECT_THAT(KeyRefusal("expert_used_count", 5u), HasSubstr("experts_per_token is 5"));
  EXPECT_THAT(KeyRefusal("attention.head_count", 0u), HasSubstr("heads is 0"));
  EXPECT_THAT(KeyRefusal("attention.head_count", 3u), HasSubstr("not a multiple of kv_heads"));
  EXPECT_THAT(KeyRefusal("attention.value_length", 8u), HasSubstr("attention.value_length"));
  EXPECT_THAT(KeyRefusal("rope.dimension_count", 8u), HasSubstr("rope.dimension_count' is 8, only 16"));
  EXPECT_THAT(KeyRefusal("rope.freq_base", std::numeric_limits<float>::quiet_NaN()), HasSubstr("rope_theta is nan"));
  EXPECT_THAT(KeyRefusal("attention.layer_norm_rms_epsilon", -1.0f), HasSubstr("norm_eps"));
  EXPECT_THAT(KeyRefusal("vocab_size", 300u), HasSubstr("vocab_size' is 300, only 272"));
  EXPECT_THAT(KeyRefusal("embedding_length", 32u), AllOf(HasSubstr("token_embd.weight"), HasSubstr("got [272, 64]")));
  EXPECT_THAT(KeyRefusal("shortconv.l_cache", 1u), HasSubstr("conv_taps is 1"));
  EXPECT_THAT(KeyRefusal("leading_dense_block_count", 9u), HasSubstr("dense_layers is 9"));
  EXPECT_THAT(KeyRefusal("expert_gating_func", 1u), HasSubstr("expert_gating_func' is 1, only 2"));
  EXPECT_THAT(KeyRefusal("context_length", 0u), HasSubstr("context_tokens_max is 0"));
}

TEST_F(GgufModelTest, RefusesForeignArchitectures) {
  SetKey("general.architecture", uint64_t{7});
  ReplaceOnce("lfm2moe", "mixtral", &bytes_);
  EXPECT_THAT(Refusal(), HasSubstr("'mixtral'; lfm2 and lfm2moe"));
}

TEST_F(GgufModelTest, RefusesMissingAndSuperfluousTensorsByName) {
  EXPECT_THAT(RenameRefusal("blk.1.attn_q.weight", "blk.1.attn_x.weight"),
              HasSubstr("'blk.1.attn_q.weight' is missing"));
  EXPECT_THAT(RenameRefusal("token_embd_norm.weight", "token_embd_norm.weighs"), HasSubstr("is missing"));
  // Without the first layer's bias the model is one without expert biases, and the other layers have one too many.
  EXPECT_THAT(RenameRefusal("blk.1.exp_probs_b.bias", "blk.1.exp_probs_b.bits"), HasSubstr("has no place in this"));
}

TEST_F(GgufModelTest, LeavesABadTokenizerToThoseWhoNeedIt) {
  const std::string good = bytes_;
  ReplaceOnce("lfm2\x15", "lfm3\x15", &bytes_);  // the value of tokenizer.ggml.pre, then the length of the next key
  EXPECT_THAT(TokenizerStatus().message(), HasSubstr("tokenizer.ggml.pre' is 'lfm3'"));
  bytes_ = good;
  SetKey("tokenizer.ggml.eos_token_id", 262u);
  EXPECT_THAT(TokenizerStatus().message(), HasSubstr("eos_token_id' is 262"));
  bytes_ = good;
  ReplaceOnce("he l", "hell", &bytes_);
  EXPECT_THAT(TokenizerStatus().message(), HasSubstr("'hell' is not two tokens"));
}

TEST_F(GgufModelTest, DigestDependsOnTheBytesAndNotOnThePath) {
  const std::string digest = MustOpen(path_)->digest();
  EXPECT_EQ(digest.size(), 64u);
  WriteFile(dir_ / "copy.gguf", bytes_);
  EXPECT_EQ(MustOpen(dir_ / "copy.gguf")->digest(), digest);
  std::set<std::string> digests = {digest};
  SetKey("lfm2moe.rope.freq_base", 5e6f);
  WriteFile(path_, bytes_);
  EXPECT_TRUE(digests.insert(MustOpen(path_)->digest()).second);
  TinyModel other(TinyConfig());
  for (std::vector<float>& values : other.values()) values[values.size() / 2] += 1;
  WriteGguf(other, dir_ / "other.gguf");
  EXPECT_TRUE(digests.insert(MustOpen(dir_ / "other.gguf")->digest()).second);
  TinyModel chatty(TinyConfig());
  chatty.set_chat_template("{{ messages }}");
  WriteGguf(chatty, dir_ / "chatty.gguf");
  EXPECT_TRUE(digests.insert(MustOpen(dir_ / "chatty.gguf")->digest()).second);
}

TEST_F(GgufModelTest, RefusesAFileCutAnywhere) {
  const size_t header_bytes = bytes_.size() - MustOpen(path_)->weight_bytes();
  std::mt19937 random(3);
  std::vector<size_t> lengths;
  for (int i = 0; i < 100; ++i) lengths.push_back(random() % bytes_.size());
  for (int i = 0; i < 300; ++i) lengths.push_back(random() % header_bytes);
  std::sort(lengths.rbegin(), lengths.rend());
  for (const size_t length : lengths) {
    std::filesystem::resize_file(path_, length);
    EXPECT_TRUE(absl::IsInvalidArgument(ModelFile::Open(path_).status())) << length;
  }
}

// Whatever opens can be read from end to end.
TEST_F(GgufModelTest, SurvivesMutations) {
  const size_t header_bytes = bytes_.size() - MustOpen(path_)->weight_bytes();
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  const auto set_byte = [&](size_t at, char value) { file.seekp(static_cast<std::streamoff>(at)).put(value).flush(); };
  std::mt19937 random(4);
  int opened = 0;
  for (int i = 0; i < 3000; ++i) {
    const size_t at = random() % header_bytes;
    set_byte(at, static_cast<char>(random()));
    const auto model = ModelFile::Open(path_);
    unsigned sum = 0;
    if (model.ok()) {
      ++opened;
      VisitTensors((*model)->tensors(), [&](const TensorView& tensor) {
        sum += static_cast<unsigned>(tensor.data[0]) + static_cast<unsigned>(tensor.data[tensor.bytes() - 1]);
      });
      EXPECT_GT(sum, 0u);
    }
    set_byte(at, bytes_[at]);
  }
  EXPECT_GT(opened, 0);
}

TEST(GgufModel, ReadsTheDenseArchitecture) {
  const TempDir dir;
  WriteGguf(TinyModel(TinyDenseConfig()), dir / "dense.gguf");
  const auto model = MustOpen(dir / "dense.gguf");
  EXPECT_EQ(model->config().architecture, "lfm2");
  EXPECT_EQ(model->config().experts, 0);
  EXPECT_EQ(model->config().dense_layers, 3);
  EXPECT_TRUE(model->tensors().layers[2].experts.empty());
  EXPECT_EQ(model->tensors().layers[2].dense.down.columns, 96);
}

}  // namespace
}  // namespace braid
