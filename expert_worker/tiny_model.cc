#include "expert_worker/tiny_model.h"

#include <cmath>
#include <string>

namespace braid {

using Kind = ModelConfig::LayerKind;

TinyModel::TinyModel(uint32_t seed) : rng_(seed) {
  path_ = "tiny";
  digest_ = "tiny-" + std::to_string(seed);
  config_.name = "tiny";
  config_.architecture = "lfm2moe";
  config_.model_dim = 64;
  config_.vocab_size = kVocab;
  config_.layers = {Kind::kConv, Kind::kAttention, Kind::kConv, Kind::kAttention};
  config_.heads = 4;
  config_.kv_heads = 2;
  config_.head_dim = 16;
  config_.dense_ffn_dim = 96;
  config_.dense_layers = 1;
  config_.experts = 8;
  config_.experts_per_token = 3;
  config_.expert_ffn_dim = 32;
  config_.context_tokens_max = 512;
  tensors_.embedding = tensors_.head = Random(kVocab, config_.model_dim, 1);
  tensors_.final_norm = Ones(config_.model_dim);
  for (int i = 0; i < config_.layer_count(); ++i) tensors_.layers.push_back(Layer(i));
  TokenizerSpec spec;
  for (int id = 0; id < kVocab; ++id) spec.tokens.push_back(id == kNoToken ? "" : "t" + std::to_string(id));
  tokenizer_ = std::move(spec);
}

TensorView TinyModel::Random(int rows, int columns, float scale) {
  std::vector<float>& values = values_.emplace_back(static_cast<size_t>(rows) * columns);
  const float step = 2 * scale / std::sqrt(static_cast<float>(columns)) / static_cast<float>(rng_.max());
  for (float& value : values) value = (static_cast<float>(rng_()) - static_cast<float>(rng_.max() / 2)) * step;
  return {"", DType::kF32, rows, columns, reinterpret_cast<const std::byte*>(values.data())};
}

TensorView TinyModel::Ones(int n) {
  const std::vector<float>& values = values_.emplace_back(n, 1.0f);
  return {"", DType::kF32, 1, n, reinterpret_cast<const std::byte*>(values.data())};
}

FfnTensors TinyModel::Ffn(int dim) {
  return {Random(dim, config_.model_dim, 3), Random(dim, config_.model_dim, 3), Random(config_.model_dim, dim, 3)};
}

LayerTensors TinyModel::Layer(int index) {
  const int D = config_.model_dim, q_dim = config_.heads * config_.head_dim;
  LayerTensors layer;
  layer.operator_norm = layer.ffn_norm = Ones(D);
  if (config_.layers[index] == Kind::kConv) {
    layer.conv_in = Random(3 * D, D, 3);
    layer.conv_kernel = Random(D, config_.conv_taps, 3);
    layer.conv_out = Random(D, D, 3);
  } else {
    layer.q = Random(q_dim, D, 3);
    layer.k = Random(config_.kv_dim(), D, 3);
    layer.v = Random(config_.kv_dim(), D, 3);
    layer.attn_out = Random(D, q_dim, 3);
    layer.q_norm = layer.k_norm = Ones(config_.head_dim);
  }
  if (!config_.is_moe_layer(index)) {
    layer.dense = Ffn(config_.dense_ffn_dim);
    return layer;
  }
  layer.router = Random(config_.experts, D, 3);
  layer.expert_bias = Random(1, config_.experts, 0.1f);
  for (int e = 0; e < config_.experts; ++e) layer.experts.push_back(Ffn(config_.expert_ffn_dim));
  return layer;
}

}  // namespace braid
