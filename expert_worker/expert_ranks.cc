#include "expert_worker/expert_ranks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace braid {

absl::StatusOr<ExpertRanks> ExpertRanks::Parse(const v1::LayerPlacement& layer, int experts, int size) {
  if (layer.replicas_size() != experts) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer.replicas_size(), " experts are placed, the model has ", experts));
  }
  ExpertRanks parsed;
  parsed.offsets_.push_back(0);
  for (int expert = 0; expert < experts; ++expert) {
    const uint32_t replicas = layer.replicas(expert);
    const int begin = parsed.offsets_.back();
    if (replicas < 1 || replicas > static_cast<uint32_t>(layer.ranks_size() - begin)) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " has ", replicas, " replicas, of ",
                                                     layer.ranks_size() - begin, " ranks that are left"));
    }
    const int end = begin + static_cast<int>(replicas);
    for (int i = begin; i < end; ++i) {
      if (layer.ranks(i) >= static_cast<uint32_t>(size) || (i > begin && layer.ranks(i) <= layer.ranks(i - 1))) {
        return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " is placed at rank ", layer.ranks(i),
                                                       ": not ascending, or not below ", size));
      }
      parsed.ranks_.push_back(static_cast<int32_t>(layer.ranks(i)));
    }
    parsed.offsets_.push_back(end);
  }
  if (parsed.offsets_.back() != layer.ranks_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer.ranks_size(), " ranks for ", parsed.offsets_.back(), " replicas"));
  }
  return parsed;
}

bool ExpertRanks::IsAt(int expert, int rank) const { return std::ranges::binary_search(ranks(expert), rank); }

absl::StatusOr<std::vector<ExpertRanks>> ParsePlacement(const v1::Configure& configure, int moe_layers, int experts,
                                                        int size) {
  if (configure.placement_size() != moe_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat(configure.placement_size(), " layers are placed, the model has ", moe_layers, " with experts"));
  }
  std::vector<ExpertRanks> layers;
  for (int layer = 0; layer < moe_layers; ++layer) {
    absl::StatusOr<ExpertRanks> parsed = ExpertRanks::Parse(configure.placement(layer), experts, size);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("MoE layer ", layer, ": ", parsed.status().message()));
    }
    layers.push_back(*std::move(parsed));
  }
  return layers;
}

}  // namespace braid
