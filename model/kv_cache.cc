#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

// The arena is (attention layers, blocks, 2, kKvBlockTokens, kv_dim): a layer of a step reads one stretch of it.

namespace braid {
namespace {

size_t BlockFloats(int kv_dim) { return size_t{2} * kKvBlockTokens * static_cast<size_t>(kv_dim); }

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

KvPool::KvPool(const ModelConfig& config, int blocks)
    : blocks_(blocks),
      kv_dim_(config.kv_dim()),
      conv_floats_(static_cast<size_t>(config.conv_layer_count()) * kConvColumns * config.model_dim),
      memory_(nullptr, Unmapper{0}) {
  CHECK(blocks >= 1);
  const size_t bytes = BlockBytes(config) * static_cast<size_t>(blocks);
  if (bytes == 0) return;  // a model without attention
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no address space for " << blocks << " KV blocks, " << bytes << " bytes";
  memory_ = {static_cast<float*>(memory), Unmapper{bytes}};
}

float* KvPool::keys(int attention_layer, int block) {
  return memory_.get() + (static_cast<size_t>(attention_layer) * blocks_ + block) * BlockFloats(kv_dim_);
}

float* KvPool::values(int attention_layer, int block) {
  return keys(attention_layer, block) + BlockFloats(kv_dim_) / 2;
}

uint64_t KvPool::BlockBytes(const ModelConfig& config) {
  return BlockFloats(config.kv_dim()) * sizeof(float) * static_cast<uint64_t>(config.attention_layer_count());
}

SequenceCache KvPool::NewSequence() const { return {{}, std::vector<float>(conv_floats_)}; }

void KvPool::Unmapper::operator()(float* memory) const { munmap(memory, bytes); }

}  // namespace braid
