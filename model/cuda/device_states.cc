#include "model/cuda/device_states.h"

#include <algorithm>
#include <utility>

#include "model/cuda/device.h"

namespace braid::gpu {

static_assert(KvArena::kBlockTokens == kKvBlockTokens);

DeviceStates::DeviceStates(const ModelConfig* config, const StateSizes& sizes, int own_copies, MemoryPlan* plan)
    : SequenceStates(sizes), config_(*config), copies_count_(sizes.copies() + own_copies) {
  using Part = MemoryPlan::Part;
  const int64_t columns = int64_t{config_.conv_layer_count()} * config_.model_dim;
  planned_columns_ = plan->Add<float>(Part::kConvState, columns * kConvColumns * sizes.sequences);
  planned_copies_ = plan->Add<float>(Part::kConvState, columns * (config_.conv_taps - 1) * copies_count_);
  planned_kv_ = plan->AddBytes(Part::kKv, BlockBytes(config_) * static_cast<uint64_t>(sizes.blocks));
}

void DeviceStates::Bind(std::byte* memory, cudaStream_t stream) {
  stream_ = stream;
  kv_ = reinterpret_cast<__nv_bfloat16*>(memory + planned_kv_);
  columns_ = reinterpret_cast<float*>(memory + planned_columns_);
  copies_ = reinterpret_cast<float*>(memory + planned_copies_);
}

uint64_t DeviceStates::BlockBytes(const ModelConfig& config) {
  return static_cast<uint64_t>(KvArena::BlockNumbers(config.kv_heads, config.head_dim)) * sizeof(__nv_bfloat16) *
         static_cast<uint64_t>(config.attention_layer_count());
}

KvArena DeviceStates::kv(int attention_layer) const {
  const int64_t stride = KvArena::BlockNumbers(config_.kv_heads, config_.head_dim);
  return {kv_ + int64_t{attention_layer} * sizes().blocks * stride, stride, config_.kv_heads, config_.head_dim};
}
float* DeviceStates::conv_columns(int conv_layer) const {
  return columns_ + int64_t{conv_layer} * sizes().sequences * kConvColumns * config_.model_dim;
}
float* DeviceStates::conv_copies(int conv_layer) const {
  return copies_ + int64_t{conv_layer} * copies_count_ * (config_.conv_taps - 1) * config_.model_dim;
}

void DeviceStates::Save(int32_t conv_slot, int position, int32_t copy) {
  changes_.push_back({{conv_slot, position, copy}, /*save=*/true});
  Repeat(std::span(changes_).last(1));
}
void DeviceStates::Restore(int32_t copy, int position, int32_t conv_slot) {
  changes_.push_back({{conv_slot, position, copy}, /*save=*/false});
  Repeat(std::span(changes_).last(1));
}

void DeviceStates::Fill(uint8_t byte) {
  const auto fill = [&](void* memory, uint64_t bytes) {
    if (error_ == cudaSuccess && bytes > 0) error_ = cudaMemsetAsync(memory, byte, bytes, stream_);
  };
  fill(kv_, BlockBytes(config_) * static_cast<uint64_t>(sizes().blocks));
  fill(columns_, ConvColumnsBytes(config_) * static_cast<uint64_t>(sizes().sequences));
}

void DeviceStates::TakeChanges(std::vector<Change>* changes) {
  changes->clear();
  std::swap(*changes, changes_);
}

void DeviceStates::Repeat(std::span<const Change> changes) {
  for (const Change& change : changes) Copy(change.columns, change.save);
}

// A column of all layers is one copy of so many rows: layers are a stretch of memory apart.
void DeviceStates::Copy(const Columns& columns, bool save) {
  const auto& [conv_slot, position, copy] = columns;
  const int before = config_.conv_taps - 1;
  const int64_t D = config_.model_dim;
  const size_t width = sizeof(float) * static_cast<size_t>(D), layers = static_cast<size_t>(config_.conv_layer_count());
  const size_t slots_pitch = width * static_cast<size_t>(kConvColumns) * static_cast<size_t>(sizes().sequences);
  const size_t copies_pitch = width * static_cast<size_t>(before) * static_cast<size_t>(copies_count_);
  if (layers == 0) return;
  for (int p = std::max(0, position - before); p < position && error_ == cudaSuccess; ++p) {
    float* const in_slot = columns_ + (int64_t{conv_slot} * kConvColumns + p % kConvColumns) * D;
    float* const in_copy = copies_ + (int64_t{copy} * before + p - (position - before)) * D;
    error_ = save ? cudaMemcpy2DAsync(in_copy, copies_pitch, in_slot, slots_pitch, width, layers,
                                      cudaMemcpyDeviceToDevice, stream_)
                  : cudaMemcpy2DAsync(in_slot, slots_pitch, in_copy, copies_pitch, width, layers,
                                      cudaMemcpyDeviceToDevice, stream_);
  }
}

absl::Status DeviceStates::TakeError() {
  return CudaError(std::exchange(error_, cudaSuccess), "changing the state of sequences on the device");
}

}  // namespace braid::gpu
