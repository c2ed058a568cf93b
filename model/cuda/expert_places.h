#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "model/cuda/device_weights.h"

namespace braid::gpu {

// Which expert is in which place of a device's weights. Each MoE layer has places of its own, as few as the memory
// allows: a worker holds the experts that are placed at its rank, and while it serves with them, those of the epoch to
// come are loaded into places that nobody holds.
class ExpertPlaces {
 public:
  // Experts that stay in their places as long as somebody has this. Any thread may let go of it, once no step uses it.
  class Held {
   public:
    ~Held();
    // (E) for a MoE layer: the place of each expert, 0 for those that are not held. Device memory.
    const int32_t* places(int layer) const;
    // (E), rows computed with these, for whoever counts them; zero at first. Device memory.
    uint64_t* counted() const;

   private:
    friend class ExpertPlaces;
    Held(ExpertPlaces* owner, int table) : owner_(*owner), table_(table) {}
    ExpertPlaces& owner_;
    const int table_;
    std::vector<int> held_;  // indices of places_
  };

  // Takes its part of the plan. Both must outlive *this.
  ExpertPlaces(const ModelConfig* config, const DeviceWeights* weights, MemoryPlan* plan);
  void Bind(std::byte* memory);

  // `wanted` is by MoE layer, counted among those, and expert. What is here already is not loaded again, whether
  // somebody holds it or not. Called by one thread at a time, steps may run meanwhile. kResourceExhausted if a layer
  // has too few places that nobody holds; kCancelled once `uploader` was told to stop.
  absl::StatusOr<std::shared_ptr<const Held>> Load(const std::vector<bool>& wanted, Uploader& uploader);
  // How many bytes Load(wanted) would have to copy.
  uint64_t BytesToLoad(const std::vector<bool>& wanted) const;

 private:
  struct Place {
    int expert = -1;  // of the layer; -1: none
    int holders = 0;
    bool loaded = false;  // all of it is here; stays so when nobody holds it any more
  };
  // More are never held at once than the epochs that run, begin and end.
  static constexpr int kTables = 4;

  int moe_layers() const { return config_.moe_layer_count(); }
  // The index of the place that `expert` has, or could have; -1: all are held by others.
  int FindPlace(int moe_layer, int expert, const std::vector<bool>& wanted) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes a table, and a place for each wanted expert.
  absl::StatusOr<std::shared_ptr<Held>> Hold(const std::vector<bool>& wanted);
  absl::Status Upload(const Held& held, Uploader& uploader);
  void Release(const Held& held);

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  uint64_t planned_tables_ = 0, planned_counted_ = 0;
  int32_t* tables_ = nullptr;    // (kTables, MoE layers, E), in device memory
  uint64_t* counted_ = nullptr;  // (kTables, E)

  mutable absl::Mutex mutex_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // (MoE layers, expert_places)
  bool table_taken_[kTables] ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace braid::gpu
