#include "model/cuda/expert_places.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/status.h"

namespace braid::gpu {

ExpertPlaces::Held::~Held() { owner_.Release(*this); }

const int32_t* ExpertPlaces::Held::places(int layer) const {
  const int64_t moe_layer = int64_t{table_} * owner_.moe_layers() + layer - owner_.config_.dense_layers;
  return owner_.tables_ + moe_layer * owner_.config_.experts;
}

uint64_t* ExpertPlaces::Held::counted() const { return owner_.counted_ + int64_t{table_} * owner_.config_.experts; }

ExpertPlaces::ExpertPlaces(const ModelConfig* config, const DeviceWeights* weights, MemoryPlan* plan)
    : config_(*config), weights_(*weights), places_(static_cast<size_t>(moe_layers() * weights->expert_places())) {
  const int64_t E = config_.experts;
  planned_tables_ = plan->Add<int32_t>(MemoryPlan::Part::kExperts, kTables * moe_layers() * E);
  planned_counted_ = plan->Add<uint64_t>(MemoryPlan::Part::kExperts, kTables * E);
}

void ExpertPlaces::Bind(std::byte* memory) {
  tables_ = reinterpret_cast<int32_t*>(memory + planned_tables_);
  counted_ = reinterpret_cast<uint64_t*>(memory + planned_counted_);
}

absl::StatusOr<std::shared_ptr<const ExpertPlaces::Held>> ExpertPlaces::Load(const std::vector<bool>& wanted,
                                                                             Uploader& uploader) {
  ASSIGN_OR_RETURN(std::shared_ptr<Held> held, Hold(wanted));
  const absl::Status status = Upload(*held, uploader);
  const absl::Status finished = uploader.Finish();  // also after an error: nothing is written any more
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(finished);
  absl::MutexLock lock(&mutex_);
  for (const int index : held->held_) places_[static_cast<size_t>(index)].loaded = true;
  return held;
}

uint64_t ExpertPlaces::BytesToLoad(const std::vector<bool>& wanted) const {
  absl::MutexLock lock(&mutex_);
  uint64_t bytes = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    const int moe_layer = static_cast<int>(i) / config_.experts, expert = static_cast<int>(i) % config_.experts;
    const int index = FindPlace(moe_layer, expert, wanted);
    const Place* place = index < 0 ? nullptr : &places_[static_cast<size_t>(index)];
    if (place == nullptr || place->expert != expert || !place->loaded)
      bytes += weights_.ExpertBytes(config_.dense_layers + moe_layer);
  }
  return bytes;
}

// Its own, else one that was never used, else one whose expert nobody holds or wants.
int ExpertPlaces::FindPlace(int moe_layer, int expert, const std::vector<bool>& wanted) const {
  const int P = weights_.expert_places(), E = config_.experts;
  int found = -1, cost_found = 2;
  for (int p = 0; p < P; ++p) {
    const int index = moe_layer * P + p;
    const Place& place = places_[static_cast<size_t>(index)];
    if (place.expert == expert) return index;
    const bool keep =
        place.holders > 0 || (place.expert >= 0 && wanted[static_cast<size_t>(moe_layer * E + place.expert)]);
    const int cost = keep ? 2 : place.expert >= 0 ? 1 : 0;
    if (cost < cost_found) found = index, cost_found = cost;
  }
  return found;
}

absl::StatusOr<std::shared_ptr<ExpertPlaces::Held>> ExpertPlaces::Hold(const std::vector<bool>& wanted) {
  const int E = config_.experts;
  CHECK_EQ(wanted.size(), static_cast<size_t>(moe_layers() * E));
  std::shared_ptr<Held> held;  // let go of when the lock is, if there is an error
  absl::MutexLock lock(&mutex_);
  bool* const table = std::find(std::begin(table_taken_), std::end(table_taken_), false);
  if (table == std::end(table_taken_))
    return absl::ResourceExhaustedError("the experts of too many epochs are still in use");
  *table = true;
  held.reset(new Held(this, static_cast<int>(table - table_taken_)));
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    const int moe_layer = static_cast<int>(i) / E, expert = static_cast<int>(i) % E;
    const int index = FindPlace(moe_layer, expert, wanted);
    if (index < 0) {
      return absl::ResourceExhaustedError(
          fmt::format("the device has room for {} experts of a layer, and they are in use: there is none for expert {} "
                      "of layer {}",
                      weights_.expert_places(), expert, config_.dense_layers + moe_layer));
    }
    Place& place = places_[static_cast<size_t>(index)];
    if (place.expert != expert) place = {expert, 0, false};
    ++place.holders;
    held->held_.push_back(index);
  }
  return held;
}

absl::Status ExpertPlaces::Upload(const Held& held, Uploader& uploader) {
  const int P = weights_.expert_places(), E = config_.experts;
  std::vector<int32_t> table(static_cast<size_t>(moe_layers() * E));
  for (const int index : held.held_) {
    Place place;
    {
      absl::MutexLock lock(&mutex_);
      place = places_[static_cast<size_t>(index)];
    }
    table[static_cast<size_t>(index / P * E + place.expert)] = index % P;
    if (!place.loaded)
      RETURN_IF_ERROR(weights_.LoadExpert(config_.dense_layers + index / P, place.expert, index % P, uploader));
  }
  const std::vector<uint64_t> zeros(static_cast<size_t>(E));
  RETURN_IF_ERROR(uploader.Put(zeros.data(), zeros.size() * sizeof(uint64_t), held.counted()));
  return uploader.Put(table.data(), table.size() * sizeof(int32_t), held.places(config_.dense_layers));
}

void ExpertPlaces::Release(const Held& held) {
  absl::MutexLock lock(&mutex_);
  table_taken_[held.table_] = false;
  for (const int index : held.held_) {
    Place& place = places_[static_cast<size_t>(index)];
    if (--place.holders == 0 && !place.loaded) place.expert = -1;
  }
}

}  // namespace braid::gpu
