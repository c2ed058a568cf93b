#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// Ranks of one epoch.
inline constexpr int kRanksMax = 1024;

// Which ranks have a copy of each expert of one layer.
class ExpertRanks {
 public:
  // kInvalidArgument saying what is wrong with `layer` as a placement of `experts` experts on `size` ranks.
  static absl::StatusOr<ExpertRanks> Parse(const v1::LayerPlacement& layer, int experts, int size);

  int experts() const { return static_cast<int>(offsets_.size()) - 1; }
  // At least one, ascending.
  std::span<const int32_t> ranks(int expert) const {
    return std::span(ranks_).subspan(offsets_[expert], offsets_[expert + 1] - offsets_[expert]);
  }
  bool IsAt(int expert, int rank) const;

 private:
  std::vector<int32_t> ranks_;    // expert by expert
  std::vector<int32_t> offsets_;  // (E + 1) into ranks_
};

// All layers of `configure`. kInvalidArgument naming the layer if one is wrong, or if they are not `moe_layers`.
absl::StatusOr<std::vector<ExpertRanks>> ParsePlacement(const v1::Configure& configure, int moe_layers, int experts,
                                                        int size);

}  // namespace braid
