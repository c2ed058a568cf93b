#include "model/sequence_states.h"

namespace braid {
namespace {

uint64_t ConvBytes(const ModelConfig& config, int columns) {
  return sizeof(float) * static_cast<uint64_t>(config.conv_layer_count()) * static_cast<uint64_t>(columns) *
         static_cast<uint64_t>(config.model_dim);
}

}  // namespace

uint64_t KvBlockBytes(const ModelConfig& config, KvType type) {
  const uint64_t layer_bytes = config.architecture == "checksum"
                                   ? 2 * sizeof(float) * kKvBlockTokens * static_cast<uint64_t>(config.kv_dim())
                                   : static_cast<uint64_t>(KvArena::BlockBytes(type, config.kv_heads, config.head_dim));
  return layer_bytes * static_cast<uint64_t>(config.attention_layer_count());
}

uint64_t ConvColumnsBytes(const ModelConfig& config) { return ConvBytes(config, kConvColumns); }
uint64_t ConvCopyBytes(const ModelConfig& config) { return ConvBytes(config, config.conv_taps - 1); }

}  // namespace braid
