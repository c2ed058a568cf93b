#include "model/hf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/check.h"
#include "model/convert.h"
#include "model/hf_config.h"
#include "model/test_files.h"

namespace braid {
namespace {

using nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ModelFile, SaysWhichFileIsMissing) {
  const TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(ModelFile::Open(dir / "none.gguf").status()));
  const absl::Status empty = ModelFile::Open(dir / "").status();
  EXPECT_TRUE(absl::IsNotFound(empty));
  EXPECT_THAT(empty.message(), HasSubstr("config.json"));
  WriteFile(dir / "model.safetensors", "");
  EXPECT_THAT(ModelFile::Open(dir / "model.safetensors").status().message(), HasSubstr("open the directory"));
}

// A directory of the tiny model, to be altered.
class HfModelTest : public ::testing::Test {
 protected:
  HfModelTest() {
    const auto summary = Convert(TinyModel(TinyConfig()), path_, {.format = ModelFormat::kHf});
    CHECK(summary.ok()) << summary.status();
  }

  std::string At(const char* name) const { return path_ + "/" + name; }
  ordered_json Load(const char* name) const { return ordered_json::parse(ReadFile(At(name))); }
  void Store(const char* name, const ordered_json& document) const { WriteFile(At(name), document.dump()); }

  std::string Refusal() const {
    const absl::Status status = ModelFile::Open(path_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(path_));
    return std::string(status.message());
  }

  std::string ConfigRefusal(const char* key, const ordered_json& value) const {
    const std::string kept = ReadFile(At("config.json"));
    ordered_json config = Load("config.json");
    config[key] = value;
    Store("config.json", config);
    const std::string message = Refusal();
    WriteFile(At("config.json"), kept);
    return message;
  }

  // The tokenizer's refusal after `alter` changed tokenizer.json; the model itself opens.
  template <typename Alter>
  std::string TokenizerRefusal(Alter alter) const {
    const std::string kept = ReadFile(At("tokenizer.json"));
    ordered_json tokenizer = Load("tokenizer.json");
    alter(tokenizer);
    Store("tokenizer.json", tokenizer);
    const absl::Status status = MustOpen(path_)->tokenizer().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    WriteFile(At("tokenizer.json"), kept);
    return std::string(status.message());
  }

  // Rewrites the header of a safetensors file in place; the data stays.
  template <typename Alter>
  void AlterHeader(const char* name, Alter alter) const {
    const std::string bytes = ReadFile(At(name));
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    ordered_json header = ordered_json::parse(bytes.substr(8, length));
    alter(header);
    const std::string text = header.dump();
    const uint64_t new_length = text.size();
    std::string out(sizeof new_length, '\0');
    std::memcpy(out.data(), &new_length, sizeof new_length);
    WriteFile(At(name), out + text + bytes.substr(8 + length));
  }

  TempDir dir_;
  std::string path_ = dir_ / "tiny";
};

TEST_F(HfModelTest, ReadsConfigurationTokenizerAndTensors) {
  const auto model = MustOpen(path_);
  EXPECT_EQ(model->config().name, "tiny");
  EXPECT_EQ(model->config().layers, TinyConfig().layers);
  EXPECT_EQ(model->config().rope_theta, 1e6f);
  EXPECT_EQ(model->tensors().layers[0].conv_kernel.columns, 3);
  EXPECT_EQ(model->tensors().layers[2].experts[3].down.name, "model.layers.2.feed_forward.experts.3.w2.weight");
  ASSERT_TRUE(model->tokenizer().ok()) << model->tokenizer().status();
  EXPECT_EQ(model->tokenizer()->tokens, TinyTokenizer().tokens);
  EXPECT_EQ(model->tokenizer()->merges, TinyTokenizer().merges);
  EXPECT_TRUE(model->tokenizer()->add_bos);
  EXPECT_FALSE(model->chat_template().has_value());
}

TEST(ChecksumModel, IsAConfigurationWithoutWeights) {
  const TempDir dir;
  const ordered_json good = {{"model_type", "braid_checksum"},
                             {"vocab_size", 300},
                             {"hidden_size", 8},
                             {"num_hidden_layers", 2},
                             {"layer_types", {"conv", "full_attention"}},
                             {"num_experts", 8},
                             {"num_experts_per_tok", 4},
                             {"conv_L_cache", 3},
                             {"max_position_embeddings", 1000},
                             {"checksum_tokens", 256}};
  WriteFile(dir / "config.json", good.dump());
  const auto model = MustOpen(dir / "");
  EXPECT_EQ(model->config().architecture, "checksum");
  EXPECT_EQ(model->config().kv_dim(), 8);
  EXPECT_EQ(model->weight_bytes(), 0u);
  EXPECT_THAT(Convert(*model, dir / "out.gguf", {}).status().message(), HasSubstr("no weights"));

  const std::pair<const char*, ordered_json> bad[] = {
      {"checksum_tokens", 301}, {"checksum_tokens", nullptr},   {"hidden_size", 12},
      {"num_experts", 3},       {"num_experts_per_tok", 6},     {"layer_types", {"full_attention", "conv"}},
      {"num_experts", 33},      {"max_position_embeddings", 0}, {"max_position_embeddings", 1 << 20}};
  for (const auto& [key, value] : bad) {
    ordered_json config = good;
    config[key] = value;
    WriteFile(dir / "config.json", config.dump());
    EXPECT_TRUE(absl::IsInvalidArgument(ModelFile::Open(dir / "").status())) << key << " " << value;
  }
  ordered_json config = good;
  config["checksum_tokens"] = 255;
  WriteFile(dir / "config.json", config.dump());
  EXPECT_NE(MustOpen(dir / "")->digest(), model->digest());
}

TEST_F(HfModelTest, AcceptsTheOlderSpellingsOfTheConfiguration) {
  ordered_json config = Load("config.json");
  for (const char* key : {"layer_types", "rope_parameters", "num_experts", "norm_eps"}) config.erase(key);
  config["full_attn_idxs"] = {1};
  config["rope_theta"] = 5e6;
  config["num_local_experts"] = 4;
  config["block_norm_eps"] = 1e-6;
  config["tie_embedding"] = true;
  Store("config.json", config);
  const auto model = MustOpen(path_);
  EXPECT_EQ(model->config().layers, TinyConfig().layers);
  EXPECT_EQ(model->config().rope_theta, 5e6f);
  EXPECT_EQ(model->config().norm_eps, 1e-6f);
}

TEST_F(HfModelTest, RefusesConfigurationsByField) {
  EXPECT_THAT(ConfigRefusal("model_type", "mixtral"), HasSubstr("'mixtral'; lfm2 and lfm2_moe"));
  EXPECT_THAT(ConfigRefusal("hidden_size", -1), HasSubstr("'hidden_size' is -1"));
  EXPECT_THAT(ConfigRefusal("hidden_size", 1e300), HasSubstr("'hidden_size' is not an integer"));
  EXPECT_THAT(ConfigRefusal("hidden_size", nullptr), HasSubstr("'hidden_size' is missing"));
  EXPECT_THAT(ConfigRefusal("num_hidden_layers", 1000000000), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(ConfigRefusal("layer_types", ordered_json::array({"conv"})), HasSubstr("1 entries"));
  EXPECT_THAT(ConfigRefusal("layer_types", ordered_json::array({"conv", "ssm", "conv"})),
              HasSubstr("neither conv nor"));
  EXPECT_THAT(ConfigRefusal("conv_bias", true), HasSubstr("'conv_bias' is not supported"));
  EXPECT_THAT(ConfigRefusal("rope_parameters", {{"rope_type", "yarn"}}), HasSubstr("'yarn', only default"));
  EXPECT_THAT(ConfigRefusal("rope_scaling", {{"type", "linear"}}), HasSubstr("'linear', only default"));
  EXPECT_THAT(ConfigRefusal("quantization_config", {{"bits", 4}}), HasSubstr("use GGUF"));
  EXPECT_THAT(ConfigRefusal("num_experts_per_tok", 0), HasSubstr("experts_per_token is 0"));
  EXPECT_THAT(ConfigRefusal("num_key_value_heads", 3), HasSubstr("not a multiple"));
  EXPECT_THAT(ConfigRefusal("num_attention_heads", 16), HasSubstr("head_dim is 4"));
  EXPECT_THAT(ConfigRefusal("vocab_size", 273),
              AllOf(HasSubstr("embed_tokens"), HasSubstr("[273, 64], got [272, 64]")));
  EXPECT_THAT(ConfigRefusal("moe_intermediate_size", 64), HasSubstr("experts.0.w1.weight': expected shape [64, 64]"));
  EXPECT_THAT(ConfigRefusal("eos_token_id", "seven"), HasSubstr("'eos_token_id' is no token id"));
}

TEST_F(HfModelTest, TakesSpecialIdsFromTheConfigurationWhereTheTokenizerHasNone) {
  WriteFile(At("tokenizer_config.json"), "{}");
  ordered_json generation = Load("generation_config.json");
  generation["eos_token_id"] = {258, 260};
  Store("generation_config.json", generation);
  const auto model = MustOpen(path_);
  ASSERT_TRUE(model->tokenizer().ok()) << model->tokenizer().status();
  EXPECT_EQ(model->tokenizer()->eos, 258);
  EXPECT_EQ(model->tokenizer()->bos, 259);
}

TEST_F(HfModelTest, PrefersTheChatTemplateFile) {
  Store("tokenizer_config.json",
        {{"chat_template", {{{"name", "tools"}, {"template", "a"}}, {{"name", "default"}, {"template", "b"}}}}});
  EXPECT_EQ(MustOpen(path_)->chat_template(), "b");
  Store("tokenizer_config.json", {{"chat_template", "c"}});
  EXPECT_EQ(MustOpen(path_)->chat_template(), "c");
  WriteFile(At("chat_template.jinja"), "d");
  EXPECT_EQ(MustOpen(path_)->chat_template(), "d");
}

TEST_F(HfModelTest, RecognizesPreTokenizersByTheirRegex) {
  using Kind = TokenizerSpec::PreTokenizer;
  const std::pair<const char*, Kind> cases[] = {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+)"
                                                 R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                                                 Kind::kLlama3},
                                                {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+)"
                                                 R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                                                 Kind::kQwen2},
                                                {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                                                 R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s)",
                                                 Kind::kLfm2}};
  ordered_json tokenizer = Load("tokenizer.json");
  for (const auto& [regex, kind] : cases) {
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex;
    Store("tokenizer.json", tokenizer);
    EXPECT_EQ(MustOpen(path_)->tokenizer()->pre_tokenizer, kind) << regex;
  }
  tokenizer["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  Store("tokenizer.json", tokenizer);
  EXPECT_EQ(MustOpen(path_)->tokenizer()->pre_tokenizer, Kind::kGpt2);
  EXPECT_TRUE(MustOpen(path_)->tokenizer()->add_prefix_space);
}

TEST_F(HfModelTest, ReadsMergesInBothSpellings) {
  ordered_json tokenizer = Load("tokenizer.json");
  tokenizer["model"]["merges"] = {"h e", "he l"};
  Store("tokenizer.json", tokenizer);
  EXPECT_EQ(MustOpen(path_)->tokenizer()->merges, TinyTokenizer().merges);
}

TEST_F(HfModelTest, RefusesTokenizersItCannotFollow) {
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["normalizer"] = {{"type", "NFC"}}; }), HasSubstr("normalizer"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["model"]["type"] = "Unigram"; }), HasSubstr("only BPE"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["model"]["byte_fallback"] = true; }), HasSubstr("byte_fallback"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["model"]["vocab"]["he"] = 272; }),
              HasSubstr("'he' is not below the 272"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["model"]["vocab"]["he"] = 257; }), HasSubstr("same id 257"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["model"]["merges"] = {"hel"}; }), HasSubstr("not two tokens"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["added_tokens"][0]["id"] = 1000000000000; }), HasSubstr("<|pad|>"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+"; }),
              HasSubstr("the regex is none of"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) {
                t["pre_tokenizer"] = {{"type", "Metaspace"}};
              }),
              HasSubstr("'Metaspace'"));
  EXPECT_THAT(TokenizerRefusal([](auto& t) {
                t["post_processor"]["single"].push_back({{"SpecialToken", {{"id", "<|im_end|>"}}}});
              }),
              HasSubstr("only one BOS"));
  std::filesystem::remove(At("tokenizer.json"));
  EXPECT_THAT(MustOpen(path_)->tokenizer().status().message(), HasSubstr("tokenizer.json is missing"));
}

TEST_F(HfModelTest, ReadsFusedExperts) {
  const auto apart = MustOpen(path_);
  std::vector<std::string> gates;
  for (const FfnTensors& expert : apart->tensors().layers[1].experts)
    gates.emplace_back(reinterpret_cast<const char*>(expert.up.data), expert.up.bytes());
  // The experts' matrices lie as w1, w3, w2 of one expert after the other; with w2 moved to the end of each layer the
  // same bytes are the fused form, so only the header and that order change.
  const std::string bytes = ReadFile(At("model.safetensors"));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  const ordered_json header = ordered_json::parse(bytes.substr(8, length));
  ordered_json fused_header = ordered_json::object();
  std::string data;
  const auto append = [&](const std::string& name, const ordered_json& shape, const std::string& tensor) {
    fused_header[name] = {
        {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + tensor.size()}}};
    data += tensor;
  };
  const auto data_of = [&](const std::string& name) {
    const uint64_t begin = header[name]["data_offsets"][0], end = header[name]["data_offsets"][1];
    return bytes.substr(8 + length + begin, end - begin);
  };
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__" && name.find(".experts.") == std::string::npos)
      append(name, entry["shape"], data_of(name));
  for (const std::string prefix : {"model.layers.1.feed_forward.experts.", "model.layers.2.feed_forward.experts."}) {
    std::string gate_up, down;
    for (const std::string e : {"0", "1", "2", "3"}) {
      gate_up += data_of(prefix + e + ".w1.weight") + data_of(prefix + e + ".w3.weight");
      down += data_of(prefix + e + ".w2.weight");
    }
    append(prefix + "gate_up_proj", {4, 64, 64}, gate_up);
    append(prefix + "down_proj", {4, 64, 32}, down);
  }
  const std::string text = fused_header.dump();
  const uint64_t text_length = text.size();
  WriteFile(At("model.safetensors"),
            std::string(reinterpret_cast<const char*>(&text_length), sizeof text_length) + text + data);
  const auto fused = MustOpen(path_);
  for (size_t e = 0; e < gates.size(); ++e) {
    const TensorView& up = fused->tensors().layers[1].experts[e].up;
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(up.data), up.bytes()), gates[e]);
  }
}

TEST_F(HfModelTest, RefusesTensorsByName) {
  const std::string kept = ReadFile(At("model.safetensors"));
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  AlterHeader("model.safetensors", [&](auto& header) { header[name]["shape"] = {32, 128}; });
  EXPECT_THAT(Refusal(), HasSubstr("'" + name + "': expected shape [64, 64], got [32, 128]"));
  WriteFile(At("model.safetensors"), kept);
  AlterHeader("model.safetensors", [&](auto& header) { header[name]["dtype"] = "I32"; });
  EXPECT_THAT(Refusal(), HasSubstr("is of type I32"));
  WriteFile(At("model.safetensors"), kept);
  AlterHeader("model.safetensors", [&](auto& header) {
    header["model.layers.1.self_attn.q_proj.bias"] = header[name];
    header.erase(name);
  });
  EXPECT_THAT(Refusal(), HasSubstr("'" + name + "' is missing"));
}

TEST_F(HfModelTest, ReadsShardsAndRefusesThoseElsewhere) {
  std::filesystem::rename(At("model.safetensors"), At("model-00001-of-00001.safetensors"));
  ordered_json map = ordered_json::object();
  AlterHeader("model-00001-of-00001.safetensors", [&](auto& header) {
    for (const auto& [name, entry] : header.items())
      if (name != "__metadata__") map[name] = "model-00001-of-00001.safetensors";
  });
  const auto store = [&](const ordered_json& weight_map) {
    Store("model.safetensors.index.json", {{"metadata", ordered_json::object()}, {"weight_map", weight_map}});
  };
  store(map);
  EXPECT_EQ(MustOpen(path_)->config().layer_count(), 3);
  const std::string norm = "model.embedding_norm.weight";
  for (const std::string bad :
       {"../x.safetensors", "/etc/passwd", ".hidden.safetensors", "a/b.safetensors", "x.bin", ""}) {
    ordered_json altered = map;
    altered[norm] = bad;
    store(altered);
    EXPECT_THAT(Refusal(), HasSubstr("not a .safetensors file of the directory")) << bad;
  }
  ordered_json altered = map;
  altered["model.extra"] = "model-00001-of-00001.safetensors";
  store(altered);
  EXPECT_THAT(Refusal(), HasSubstr("the shards hold"));
  altered = map;
  altered.erase(norm);
  store(altered);
  EXPECT_THAT(Refusal(), HasSubstr("does not place tensor '" + norm));
  for (auto& shard : map) shard = "model-00002-of-00002.safetensors";
  store(map);
  EXPECT_TRUE(absl::IsNotFound(ModelFile::Open(path_).status()));
}

TEST_F(HfModelTest, SurvivesMutationsOfItsDocuments) {
  std::mt19937 random(5);
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    const std::string kept = ReadFile(At(name));
    for (int i = 0; i < 300; ++i) {
      std::string mutated = kept;
      mutated[random() % mutated.size()] = static_cast<char>(random());
      WriteFile(At(name), mutated);
      const auto model = ModelFile::Open(path_);
      EXPECT_TRUE(model.ok() || absl::IsInvalidArgument(model.status())) << model.status();
    }
    WriteFile(At(name), kept);
  }
}

TEST(HfConfig, AdjustsTheDenseFeedForwardDimensionAsTransformersDoes) {
  EXPECT_EQ(AdjustedFfnDim(12288, 1.0, 256), 8192);
  EXPECT_EQ(AdjustedFfnDim(6656, 1.0, 256), 4608);
  EXPECT_EQ(AdjustedFfnDim(10240, std::nullopt, 256), 6912);
  EXPECT_EQ(AdjustedFfnDim(100, 1.5, 1), 99);
}

// The model shipped with the source, once it is there.
TEST(ModelFile, OpensTheDemoModel) {
  if (!std::filesystem::exists("model/demo/config.json")) GTEST_SKIP() << "no demo model";
  const auto model = MustOpen("model/demo");
  EXPECT_TRUE(model->tokenizer().ok()) << model->tokenizer().status();
  EXPECT_TRUE(model->chat_template().has_value());
}

}  // namespace
}  // namespace braid
