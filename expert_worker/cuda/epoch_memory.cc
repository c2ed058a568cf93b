#include "expert_worker/cuda/epoch_memory.h"

#include <string>

#include "base/status.h"

namespace braid::gpu {

absl::StatusOr<std::unique_ptr<EpochMemory>> EpochMemory::Create(std::byte* device, const Sizes& sizes) {
  std::unique_ptr<EpochMemory> memory(new EpochMemory);
  ASSIGN_OR_RETURN(memory->pinned_, AllocatePinned(kEpochsMax * sizes.host_bytes));
  memory->scratch_ = {device, sizes.scratch_bytes};
  std::byte* host = static_cast<std::byte*>(memory->pinned_.get());
  device += sizes.scratch_bytes;
  for (Part& part : memory->parts_) {
    part = {.device = {device, sizes.device_bytes}, .host = {host, sizes.host_bytes}};
    device += sizes.device_bytes;
    host += sizes.host_bytes;
  }
  return memory;
}

absl::StatusOr<EpochMemory::OwnedPart> EpochMemory::Take() {
  absl::MutexLock lock(&mutex_);
  for (int i = 0; i < kEpochsMax; ++i) {
    if (taken_[i]) continue;
    taken_[i] = true;
    return OwnedPart(&parts_[i], PutBack{this});
  }
  return absl::UnavailableError("there is memory for " + std::to_string(kEpochsMax) +
                                " epochs, and so many are not gone yet");
}

void EpochMemory::Return(const Part* part) {
  absl::MutexLock lock(&mutex_);
  taken_[part - parts_.data()] = false;
}

}  // namespace braid::gpu
