#include "model/host_states.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace braid {

HostStates::HostStates(const ModelConfig& config, const StateSizes& sizes, KvType kv_type)
    : SequenceStates(sizes),
      kv_type_(kv_type),
      attention_layers_(config.attention_layer_count()),
      conv_layers_(config.conv_layer_count()),
      columns_before_(config.conv_taps - 1),
      model_dim_(config.model_dim),
      kv_layer_bytes_(KvBlockBytes(config, kv_type) / static_cast<uint64_t>(std::max(attention_layers_, 1))),
      kv_(Map(KvBlockBytes(config, kv_type), sizes.blocks, "KV blocks")),
      columns_(Map(ConvColumnsBytes(config), sizes.sequences, "slots of conv columns")),
      copies_(Map(ConvCopyBytes(config), sizes.copies(), "copies of conv columns")) {
  CHECK(sizes.blocks >= 1 && sizes.sequences >= 1 && sizes.snapshots >= 0);
  // A key head's part of a block is two small pages: long contexts would wait for address translation. Only a wish.
  if (kv_) madvise(kv_.get(), kv_.get_deleter().bytes, MADV_HUGEPAGE);
}

std::byte* HostStates::kv(int attention_layer, int block) const {
  return kv_.get() + (static_cast<size_t>(attention_layer) * sizes().blocks + block) * kv_layer_bytes_;
}

float* HostStates::conv_columns(int conv_layer, int32_t slot) const {
  const size_t layer = static_cast<size_t>(slot) * conv_layers_ + conv_layer;
  return reinterpret_cast<float*>(columns_.get()) + layer * kConvColumns * model_dim_;
}

float* HostStates::conv_copy(int conv_layer, int32_t copy) const {
  const size_t layer = static_cast<size_t>(copy) * conv_layers_ + conv_layer;
  return reinterpret_cast<float*>(copies_.get()) + layer * columns_before_ * model_dim_;
}

// Calls copy_column(column in the slot, column in the copy).
template <typename CopyColumn>
void HostStates::ForEachColumnBefore(int position, int32_t conv_slot, int32_t copy,
                                     const CopyColumn& copy_column) const {
  for (int layer = 0; layer < conv_layers_; ++layer) {
    float *const columns = conv_columns(layer, conv_slot), *copied = conv_copy(layer, copy);
    for (int p = position - columns_before_; p < position; ++p, copied += model_dim_) {
      if (p >= 0) copy_column(columns + static_cast<size_t>(p % kConvColumns) * model_dim_, copied);
    }
  }
}

void HostStates::Save(int32_t conv_slot, int position, int32_t copy) {
  ForEachColumnBefore(position, conv_slot, copy,
                      [this](const float* column, float* copied) { std::copy_n(column, model_dim_, copied); });
}

void HostStates::Restore(int32_t copy, int position, int32_t conv_slot) {
  ForEachColumnBefore(position, conv_slot, copy,
                      [this](float* column, const float* copied) { std::copy_n(copied, model_dim_, column); });
}

void HostStates::Fill(uint8_t byte) {
  if (kv_ == nullptr) return;
  std::memset(kv_.get(), byte, kv_layer_bytes_ * static_cast<size_t>(attention_layers_) * sizes().blocks);
}

HostStates::Pages HostStates::Map(uint64_t bytes_each, int count, const char* what) {
  const size_t bytes = bytes_each * static_cast<size_t>(count);
  if (bytes == 0) return {nullptr, Unmapper{0}};  // a model without such layers
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no address space for " << count << " " << what << ", " << bytes << " bytes";
  return {static_cast<std::byte*>(memory), Unmapper{bytes}};
}

void HostStates::Unmapper::operator()(std::byte* memory) const { munmap(memory, bytes); }

}  // namespace braid
