#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

// The memory is (attention layers, blocks, layer_bytes): a layer of a step reads one stretch of it.

namespace braid {
namespace {

// Calls visit(offset of a column in SequenceCache::conv) for the columns before `position` that a token there reads, in
// all layers.
template <typename Visit>
void ForEachColumnBefore(const ModelConfig& config, int position, const Visit& visit) {
  for (int layer = 0; layer < config.conv_layer_count(); ++layer) {
    for (int p = std::max(0, position - (config.conv_taps - 1)); p < position; ++p) {
      visit((static_cast<size_t>(layer) * kConvColumns + p % kConvColumns) * config.model_dim);
    }
  }
}

// Of a block.
uint64_t LayerBytes(const ModelConfig& config, KvType type) {
  if (config.architecture == "checksum")
    return 2 * sizeof(float) * kKvBlockTokens * static_cast<uint64_t>(config.kv_dim());
  return static_cast<uint64_t>(KvArena::BlockBytes(type, config.kv_heads, config.head_dim));
}

}  // namespace

std::vector<float> SaveConvColumns(const ModelConfig& config, const SequenceCache& cache, int position, int tokens) {
  std::vector<float> saved;
  if (tokens <= kConvColumns - (config.conv_taps - 1)) return saved;
  ForEachColumnBefore(config, position, [&](size_t at) {
    saved.insert(saved.end(), cache.conv.begin() + at, cache.conv.begin() + at + config.model_dim);
  });
  return saved;
}

void RestoreConvColumns(const ModelConfig& config, std::span<const float> saved, int position, SequenceCache* cache) {
  if (saved.empty()) return;
  const float* column = saved.data();
  ForEachColumnBefore(config, position, [&](size_t at) {
    std::copy_n(column, config.model_dim, cache->conv.begin() + at);
    column += config.model_dim;
  });
  CHECK(column == saved.data() + saved.size());
}

size_t ConvSnapshotFloats(const ModelConfig& config) {
  return static_cast<size_t>(config.conv_layer_count()) * (config.conv_taps - 1) * config.model_dim;
}

KvPool::KvPool(const ModelConfig& config, int blocks, KvType type)
    : blocks_(blocks),
      type_(type),
      layer_bytes_(LayerBytes(config, type)),
      conv_floats_(static_cast<size_t>(config.conv_layer_count()) * kConvColumns * config.model_dim),
      memory_(nullptr, Unmapper{0}) {
  CHECK(blocks >= 1);
  const size_t bytes = BlockBytes(config, type) * static_cast<size_t>(blocks);
  if (bytes == 0) return;  // a model without attention
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no address space for " << blocks << " KV blocks, " << bytes << " bytes";
  memory_ = {static_cast<std::byte*>(memory), Unmapper{bytes}};
  // A key head's part of a block is two small pages: long contexts would wait for address translation. Only a wish.
  madvise(memory, bytes, MADV_HUGEPAGE);
}

std::byte* KvPool::at(int attention_layer, int block) {
  return memory_.get() + (static_cast<size_t>(attention_layer) * blocks_ + block) * layer_bytes_;
}

uint64_t KvPool::BlockBytes(const ModelConfig& config, KvType type) {
  return LayerBytes(config, type) * static_cast<uint64_t>(config.attention_layer_count());
}

SequenceCache KvPool::NewSequence() const { return {{}, std::vector<float>(conv_floats_)}; }

void KvPool::Unmapper::operator()(std::byte* memory) const { munmap(memory, bytes); }

}  // namespace braid
