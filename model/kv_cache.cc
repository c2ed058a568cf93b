#include "model/kv_cache.h"

#include <sys/mman.h>

#include "base/check.h"

// The arena is (attention layers, blocks, 2, kKvBlockTokens, kv_dim): a layer of a step reads one stretch of it.

namespace braid {
namespace {

size_t BlockFloats(int kv_dim) { return size_t{2} * kKvBlockTokens * static_cast<size_t>(kv_dim); }

}  // namespace

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
