#include "model/test_files.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "model/byte_spelling.h"

namespace braid {

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "braid_test_XXXXXX").string();
  CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  CHECK(out.good()) << path;
}

std::unique_ptr<ModelFile> MustOpen(const std::string& path) {
  auto model = ModelFile::Open(path);
  CHECK(model.ok()) << model.status();
  return *std::move(model);
}

ModelConfig TinyConfig() {
  using Kind = ModelConfig::LayerKind;
  ModelConfig config;
  config.name = "tiny";
  config.architecture = "lfm2moe";
  config.model_dim = 64;
  config.vocab_size = 272;
  config.layers = {Kind::kConv, Kind::kAttention, Kind::kConv};
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.dense_ffn_dim = 96;
  config.dense_layers = 1;
  config.experts = 4;
  config.experts_per_token = 2;
  config.expert_ffn_dim = 32;
  config.context_tokens_max = 512;
  return config;
}

ModelConfig TinyDenseConfig() {
  ModelConfig config = TinyConfig();
  config.architecture = "lfm2";
  config.dense_layers = config.layer_count();
  config.experts = config.experts_per_token = config.expert_ffn_dim = 0;
  return config;
}

TokenizerSpec TinyTokenizer() {
  TokenizerSpec spec;
  for (int byte = 0; byte < 256; ++byte) spec.tokens.push_back(SpellBytes(std::string(1, static_cast<char>(byte))));
  spec.merges = {{"h", "e"}, {"he", "l"}};
  spec.tokens.insert(spec.tokens.end(), {"he", "hel", "<|pad|>", "<|startoftext|>", "<|im_end|>", "<think>"});
  spec.added = {{.id = 258, .text = "<|pad|>"},
                {.id = 259, .text = "<|startoftext|>"},
                {.id = 260, .text = "<|im_end|>"},
                {.id = 261, .text = "<think>", .special = false}};
  spec.ignore_merges = true;
  spec.pad = 258;
  spec.bos = 259;
  spec.eos = 260;
  return spec;
}

TinyModel::TinyModel(ModelConfig config, bool tied_head) {
  path_ = "tiny model in memory";
  config_ = std::move(config);
  const int64_t D = config_.model_dim;
  tensors_.embedding = Make("embedding", config_.vocab_size, D, 0);
  tensors_.final_norm = Make("final_norm", 1, D, 1);
  tensors_.head = tied_head ? tensors_.embedding : Make("head", config_.vocab_size, D, 0);
  tensors_.layers.resize(config_.layers.size());
  for (int i = 0; i < config_.layer_count(); ++i) MakeLayer(i);
  tokenizer_ = TinyTokenizer();
}

TensorView TinyModel::Make(std::string name, int64_t rows, int64_t columns, float mean) {
  const uint64_t seed = values_.size();
  std::vector<float>& values = values_.emplace_back(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = mean + static_cast<float>(UniformAt(seed, 0, i)) - 0.5f;
  weight_bytes_ += values.size() * sizeof(float);
  return {std::move(name), DType::kF32, rows, columns, reinterpret_cast<const std::byte*>(values.data())};
}

void TinyModel::MakeLayer(int i) {
  LayerTensors& layer = tensors_.layers[static_cast<size_t>(i)];
  const int64_t D = config_.model_dim, q_dim = int64_t{config_.heads} * config_.head_dim;
  const std::string prefix = "layer " + std::to_string(i) + " ";
  const auto make_ffn = [&](int64_t F, FfnTensors* ffn) {
    ffn->gate = Make(prefix + "gate", F, D, 0);
    ffn->up = Make(prefix + "up", F, D, 0);
    ffn->down = Make(prefix + "down", D, F, 0);
  };
  layer.operator_norm = Make(prefix + "operator_norm", 1, D, 1);
  layer.ffn_norm = Make(prefix + "ffn_norm", 1, D, 1);
  if (config_.layers[static_cast<size_t>(i)] == ModelConfig::LayerKind::kConv) {
    layer.conv_in = Make(prefix + "conv_in", 3 * D, D, 0);
    layer.conv_kernel = Make(prefix + "conv_kernel", D, config_.conv_taps, 0);
    layer.conv_out = Make(prefix + "conv_out", D, D, 0);
  } else {
    layer.q = Make(prefix + "q", q_dim, D, 0);
    layer.k = Make(prefix + "k", config_.kv_dim(), D, 0);
    layer.v = Make(prefix + "v", config_.kv_dim(), D, 0);
    layer.attn_out = Make(prefix + "attn_out", D, q_dim, 0);
    layer.q_norm = Make(prefix + "q_norm", 1, config_.head_dim, 1);
    layer.k_norm = Make(prefix + "k_norm", 1, config_.head_dim, 1);
  }
  if (!config_.is_moe_layer(i)) return make_ffn(config_.dense_ffn_dim, &layer.dense);
  layer.router = Make(prefix + "router", config_.experts, D, 0);
  if (config_.use_expert_bias) layer.expert_bias = Make(prefix + "expert_bias", 1, config_.experts, 0);
  layer.experts.resize(static_cast<size_t>(config_.experts));
  for (FfnTensors& expert : layer.experts) make_ffn(config_.expert_ffn_dim, &expert);
}

}  // namespace braid
