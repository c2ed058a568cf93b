#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace braid {

// How much each expert has been used lately, in rows: windows of steps, each older one counting half.
// Thread-compatible.
class ExpertLoad {
 public:
  static constexpr int kWindowSteps = 64;
  // Below this many rows per expert, in the mean, differences are chance.
  static constexpr double kRowsPerExpertMin = 16;

  // `rows` by (layer, expert); what other workers computed for the same step is added in further calls.
  template <typename Rows>
  void Add(const Rows& rows) {
    if (window_.size() < static_cast<size_t>(rows.size())) window_.resize(static_cast<size_t>(rows.size()));
    for (int i = 0; i < rows.size(); ++i) window_[static_cast<size_t>(i)] += static_cast<double>(rows[i]);
  }
  // Ends a step. True when it ends a window that had rows.
  bool EndStep();

  // (layers, E); empty until enough has been seen.
  std::span<const double> rows() const;
  // The busiest expert's rows over the mean, summed up layer by layer: 1 is even. `experts` is E.
  double Imbalance(int experts) const;

 private:
  std::vector<double> window_, load_;
  double total_ = 0;  // of load_
  int steps_ = 0;
};

}  // namespace braid
