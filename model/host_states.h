#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/kv_arena.h"
#include "model/config.h"
#include "model/sequence_states.h"

namespace braid {

// The state of sequences in the memory of this machine. Pages that nobody touches cost nothing. Not thread-safe, but
// different blocks, slots and copies may be used from different threads.
class HostStates : public SequenceStates {
 public:
  HostStates(const ModelConfig& config, const StateSizes& sizes, KvType kv_type = KvType::kBFloat16);

  KvType kv_type() const { return kv_type_; }
  // What one attention layer, counted among attention layers only, keeps in a block, laid out as its engine likes;
  // block b + 1 lies kv_layer_bytes() behind block b. At a multiple of 64 bytes.
  std::byte* kv(int attention_layer, int block) const;
  size_t kv_layer_bytes() const { return kv_layer_bytes_; }
  // (kConvColumns, D), and (C - 1, D): of one conv layer, counted among conv layers only.
  float* conv_columns(int conv_layer, int32_t slot) const;
  float* conv_copy(int conv_layer, int32_t copy) const;

  void Save(int32_t conv_slot, int position, int32_t copy) override;
  void Restore(int32_t copy, int position, int32_t conv_slot) override;
  void Fill(uint8_t byte) override;

 private:
  struct Unmapper {
    size_t bytes = 0;
    void operator()(std::byte* memory) const;
  };
  using Pages = std::unique_ptr<std::byte[], Unmapper>;
  static Pages Map(uint64_t bytes_each, int count, const char* what);
  template <typename CopyColumn>
  void ForEachColumnBefore(int position, int32_t conv_slot, int32_t copy, const CopyColumn& copy_column) const;

  const KvType kv_type_;
  const int attention_layers_, conv_layers_, columns_before_, model_dim_;
  const size_t kv_layer_bytes_;
  const Pages kv_;       // (attention layers, blocks, kv_layer_bytes): a layer of a step reads one stretch of it
  const Pages columns_;  // (slots, conv layers, kConvColumns, D)
  const Pages copies_;   // (copies, conv layers, C - 1, D)
};

}  // namespace braid
