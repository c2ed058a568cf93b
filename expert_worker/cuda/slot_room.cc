#include "expert_worker/cuda/slot_room.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace braid::gpu {

SlotRoom::SlotRoom(const Options& options, int K, size_t row_bytes, int ranks, std::span<const ExpertRanks> placement)
    : options_(options), K_(K), bytes_of_result_(row_bytes * (ranks - 1)), trend_{options.multiple}, before_(trend_) {
  for (const ExpertRanks& layer : placement) {
    // A rank asks itself for all that it has, replica or not.
    std::vector<int> experts(ranks);
    for (int e = 0; e < layer.experts(); ++e)
      for (const int32_t rank : layer.ranks(e)) ++experts[rank];
    const int most = *std::max_element(experts.begin(), experts.end());
    results_of_row_ = std::max(results_of_row_, std::min(most, K));
    share_ = std::max(share_, static_cast<double>(most) / layer.experts());
  }
}

int SlotRoom::Expected(int rows) const {
  const double mean = rows * K_ * share_;
  const double room = std::ceil(trend_.multiple * mean + options_.deviations * std::sqrt(mean)) + options_.more;
  return static_cast<int>(std::clamp<double>(room, 1, ResultsMax(rows)));
}

int SlotRoom::Results(int rows) const {
  const int expected = Expected(rows), all = ResultsMax(rows);
  return (all - expected) * bytes_of_result_ <= options_.spare_bytes ? all : expected;
}

void SlotRoom::CountStep() {
  before_ = trend_;
  if (trend_.multiple == options_.multiple || ++trend_.calm_steps < options_.steps_to_halve) return;
  trend_ = {std::max(trend_.multiple / 2, options_.multiple)};
}

void SlotRoom::DidNotFit(bool another_behind) {
  if (another_behind) trend_ = before_;
  trend_ = {trend_.multiple * 2};
}

}  // namespace braid::gpu
