#include "router/expert_load.h"

#include <algorithm>
#include <numeric>

namespace braid {

bool ExpertLoad::EndStep() {
  if (std::all_of(window_.begin(), window_.end(), [](double rows) { return rows == 0; })) return false;
  if (++steps_ < kWindowSteps) return false;
  steps_ = 0;
  load_.resize(window_.size());
  for (size_t i = 0; i < load_.size(); ++i) load_[i] = load_[i] / 2 + window_[i];
  total_ = std::accumulate(load_.begin(), load_.end(), 0.0);
  std::fill(window_.begin(), window_.end(), 0.0);
  return true;
}

std::span<const double> ExpertLoad::rows() const {
  if (total_ < kRowsPerExpertMin * static_cast<double>(load_.size())) return {};
  return load_;
}

double ExpertLoad::Imbalance(int experts) const {
  if (total_ == 0 || experts == 0) return 1;
  double busiest = 0;
  for (size_t at = 0; at + static_cast<size_t>(experts) <= load_.size(); at += static_cast<size_t>(experts)) {
    busiest += *std::max_element(load_.begin() + static_cast<std::ptrdiff_t>(at),
                                 load_.begin() + static_cast<std::ptrdiff_t>(at) + experts);
  }
  return busiest * experts / total_;
}

}  // namespace braid
