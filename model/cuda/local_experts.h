#pragma once

#include <array>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/cuda/device.h"
#include "model/cuda/device_weights.h"
#include "model/cuda/expert_places.h"
#include "model/cuda/experts.h"
#include "model/cuda/fp8_rows.h"
#include "model/cuda/memory_plan.h"

namespace braid::gpu {

// Device memory in which experts run: that of one engine, for one product at a time on the stream of its steps.
struct ExpertScratch {
  int rows_max = 0;            // (row, expert) pairs at once
  void* hidden = nullptr;      // (rows_max, F), between the two products
  void* results = nullptr;     // (rows_max, D)
  int32_t* offsets = nullptr;  // (E + 1)
  int32_t* source = nullptr;   // (rows_max)
  int32_t* row_of = nullptr;   // (rows_max)

  // Takes its part of the plan, then what was planned.
  void Plan(const ModelConfig& config, DType type, int rows, MemoryPlan* plan);
  void Bind(std::byte* memory);
};

// The gated feed-forwards of the LFM2-MoE family, whose weights lie in places of a device.
class DeviceExpertFfn : public ExpertFfn {
 public:
  // All must outlive *this; rows come only for experts that are held. `fp8_rows` is nullptr if products read rows as
  // they are.
  DeviceExpertFfn(const ModelConfig* config, const DeviceWeights* weights,
                  std::shared_ptr<const ExpertPlaces::Held> held, const ExpertScratch* scratch,
                  const Fp8Rows* fp8_rows);
  absl::Status Enqueue(const ExpertGroups& groups, cudaStream_t stream) override;
  // (E), for whoever makes the groups to count their rows in. Device memory.
  uint64_t* counted() const { return held_->counted(); }

 private:
  absl::Status Multiply(GroupedLinear op, cudaStream_t stream) const;

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  const std::shared_ptr<const ExpertPlaces::Held> held_;
  const ExpertScratch& scratch_;
  const Fp8Rows* const fp8_rows_;
};

// All experts on this device.
class LocalExperts : public ExpertRunner {
 public:
  // Both must outlive *this.
  static absl::StatusOr<std::unique_ptr<LocalExperts>> Create(const ModelConfig* config, DeviceExpertFfn* ffn,
                                                              const ExpertScratch* scratch);
  absl::Status Enqueue(const RoutedRows& rows, cudaStream_t stream) override;
  absl::Status EnqueueEnd(cudaStream_t stream) override;
  // Rows computed per expert since the last call, summed over layers, in steps that are done.
  std::vector<uint64_t> TakeExpertRows();

 private:
  LocalExperts(const ModelConfig* config, DeviceExpertFfn* ffn, const ExpertScratch* scratch)
      : config_(*config), ffn_(*ffn), scratch_(*scratch), taken_(static_cast<size_t>(config->experts)) {}
  uint64_t counted_bytes() const { return taken_.size() * sizeof(uint64_t); }

  const ModelConfig& config_;
  DeviceExpertFfn& ffn_;
  const ExpertScratch& scratch_;
  struct Counted {
    PinnedMemory memory;  // (E), as of the end of a step
    Event copied;
  };
  std::array<Counted, 2> counted_;  // the step before the last one's, and the last one's
  std::vector<uint64_t> taken_;
};

}  // namespace braid::gpu
