#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"

namespace braid {

// The shape of an LFM2 or LFM2-MoE model, whatever file it came from, or of a checksum model (model/checksum_engine.h),
// which has their layers but no weights. Plain data; Validate() before use.
// Source: transformers' Lfm2Config and Lfm2MoeConfig, llama.cpp's GGUF keys of the archs `lfm2` and `lfm2moe`.
struct ModelConfig {
  enum class LayerKind { kConv, kAttention };

  std::string name;          // general.name or the directory's name
  std::string architecture;  // "lfm2", "lfm2moe" or "checksum"
  int model_dim = 0;         // D
  int vocab_size = 0;        // V: rows of the embedding, may exceed the tokenizer's ids
  std::vector<LayerKind> layers;
  int heads = 0;  // H
  int kv_heads = 0;
  int head_dim = 0;
  float rope_theta = 1e6f;
  float norm_eps = 1e-5f;
  int conv_taps = 3;      // C; the state of a sequence is its last C - 1 columns
  int dense_ffn_dim = 0;  // of the first dense_layers layers (all layers of a dense model)
  int dense_layers = 0;
  int experts = 0;            // E; 0 in a dense model
  int experts_per_token = 0;  // K
  int expert_ffn_dim = 0;     // F
  bool normalize_topk = true;
  bool use_expert_bias = true;
  float routed_scaling = 1.0f;
  int context_tokens_max = 0;
  int checksum_tokens = 0;  // a checksum model answers with ids below this; 0 in all others

  // Checksum models compute modulo this. Small enough for the weighted sum of all experts of a row to be exact in
  // float32: below 2^24.
  static constexpr uint32_t kChecksumPrime = (1 << 20) - 3;

  int layer_count() const { return static_cast<int>(layers.size()); }
  bool is_moe_layer(int layer) const { return experts > 0 && layer >= dense_layers; }
  int moe_layer_count() const { return experts > 0 ? layer_count() - dense_layers : 0; }
  int attention_layer_count() const;
  int conv_layer_count() const { return layer_count() - attention_layer_count(); }
  int kv_dim() const { return kv_heads * head_dim; }

  // kInvalidArgument naming the field: a dimension is zero, absurd, or contradicts another.
  absl::Status Validate() const;
};

}  // namespace braid
