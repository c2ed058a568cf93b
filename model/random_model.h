#pragma once

#include <deque>
#include <vector>

#include "base/ids.h"
#include "kernels/random_weights.h"
#include "model/config.h"
#include "model/tensors.h"

// For tests of engines: a model of any shape with random weights that live in memory, in panels if wanted and where
// their type has them.

namespace braid {

struct RandomModel {
  // `type`: of the matrices.
  RandomModel(const ModelConfig& shape, DType type, bool panels) : panels(panels), config(shape) {
    using Kind = ModelConfig::LayerKind;
    const int D = config.model_dim, q_dim = config.heads * config.head_dim;
    tensors.embedding = tensors.head = Add(type, config.vocab_size, D);
    tensors.final_norm = Ones(D);
    for (int i = 0; i < config.layer_count(); ++i) {
      LayerTensors& layer = tensors.layers.emplace_back();
      layer.operator_norm = layer.ffn_norm = Ones(D);
      if (config.layers[i] == Kind::kConv) {
        layer.conv_in = Add(type, 3 * D, D);
        layer.conv_kernel = Add(DType::kF32, D, 3);
        layer.conv_out = Add(type, D, D);
      } else {
        layer.q = Add(type, q_dim, D);
        layer.k = Add(type, config.kv_dim(), D);
        layer.v = Add(type, config.kv_dim(), D);
        layer.attn_out = Add(type, D, q_dim);
        layer.q_norm = layer.k_norm = Ones(config.head_dim);
      }
      if (!config.is_moe_layer(i)) {
        layer.dense = Ffn(type, config.dense_ffn_dim);
      } else {
        layer.router = Add(DType::kF32, config.experts, D);
        layer.expert_bias = Add(DType::kF32, 1, config.experts);
        for (int e = 0; e < config.experts; ++e) layer.experts.push_back(Ffn(type, config.expert_ffn_dim));
      }
    }
  }

  TensorView Add(DType type, int rows, int columns) {
    const Matrix& m = matrices.emplace_back(random, type, rows, columns).matrix();
    if (!panels || !HasPanels(type)) return {"", type, rows, columns, m.data};
    return {"", type, rows, columns, packed.emplace_back(m).matrix().data, Layout::kPanels};
  }
  TensorView Ones(int n) {
    const std::vector<float>& values = ones.emplace_back(n, 1.0f);
    return {"", DType::kF32, 1, n, reinterpret_cast<const std::byte*>(values.data())};
  }
  FfnTensors Ffn(DType type, int F) {
    return {Add(type, F, config.model_dim), Add(type, F, config.model_dim), Add(type, config.model_dim, F)};
  }
  std::vector<TokenId> Tokens(int n, uint32_t seed) const {
    RandomNumbers numbers(seed);
    std::vector<TokenId> tokens(n);
    for (TokenId& token : tokens) token = numbers.Below(config.vocab_size);
    return tokens;
  }

  RandomNumbers random{15};
  const bool panels;
  std::deque<RandomMatrix> matrices;
  std::deque<PackedMatrix> packed;
  std::deque<std::vector<float>> ones;
  ModelConfig config;
  ModelTensors tensors;
};

}  // namespace braid
