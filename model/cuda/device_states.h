#pragma once

#include <cuda_runtime_api.h>

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/kv.h"
#include "model/config.h"
#include "model/cuda/memory_plan.h"
#include "model/sequence_states.h"

namespace braid::gpu {

// The state of sequences in the memory of a device: keys and values in bfloat16, conv columns in float32.
class DeviceStates : public SequenceStates {
 public:
  // Takes its part of the plan, with so many copies of conv columns for the engine's own use, behind the others.
  // `config` must outlive *this.
  DeviceStates(const ModelConfig* config, const StateSizes& sizes, int own_copies, MemoryPlan* plan);
  // `stream` is that of the steps.
  void Bind(std::byte* memory, cudaStream_t stream);

  static uint64_t BlockBytes(const ModelConfig& config);

  // Of one layer, counted among those of its kind.
  KvArena kv(int attention_layer) const;
  float* conv_columns(int conv_layer) const;  // (slots, kConvColumns, D)
  float* conv_copies(int conv_layer) const;   // (copies, C - 1, D)

  void Save(int32_t conv_slot, int position, int32_t copy) override;
  void Restore(int32_t copy, int position, int32_t conv_slot) override;
  void Fill(uint8_t byte) override;

  // The columns before a position, and a copy of them.
  struct Columns {
    int32_t conv_slot;
    int position;
    int32_t copy;
  };
  struct Change {
    Columns columns;
    bool save;
  };
  // What Save and Restore have done since this was called last, for a step that runs again and needs it again.
  void TakeChanges(std::vector<Change>* changes);
  void Repeat(std::span<const Change> changes);
  // Save or Restore, and not a change.
  void Copy(const Columns& columns, bool save);
  // What went wrong in these since this was asked last.
  absl::Status TakeError();

 private:
  const ModelConfig& config_;
  const int copies_count_;
  cudaStream_t stream_ = nullptr;
  uint64_t planned_kv_ = 0, planned_columns_ = 0, planned_copies_ = 0;
  __nv_bfloat16* kv_ = nullptr;  // (attention layers, blocks, KvArena::BlockNumbers)
  float* columns_ = nullptr;     // (conv layers, slots, kConvColumns, D)
  float* copies_ = nullptr;      // (conv layers, copies, C - 1, D)
  cudaError_t error_ = cudaSuccess;
  std::vector<Change> changes_;
};

}  // namespace braid::gpu
