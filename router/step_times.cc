#include "router/step_times.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace braid {
namespace {

// What twice the rows cost if nothing is known: on a CPU a lone sequence's step of 1, 2, 4 and 8 rows reads 4, 7.5, 13
// and 21 of 32 experts, which with the other weights makes 1, 1.5, 2.3 and 3.4 times the bytes.
constexpr double kDoubling = 1.5;
constexpr double kSeenDecay = 0.99;    // per step: a hundred steps are remembered
constexpr double kForgetting = 0.002;  // of the way to what is usual, per step
constexpr double kWellKnown = 8;       // steps
constexpr double kDrift = 0.1;         // of a surprise where steps are well known that is everybody's
constexpr double kGainMin = 0.05;      // of a surprise, that is the knot's own
constexpr double kSurpriseMax = 1.1;   // threefold: a machine that stood still says nothing about rows

}  // namespace

StepTimes::StepTimes() {
  for (size_t i = 1; i < knots_.size(); ++i) knots_[i].seconds = knots_[i - 1].seconds * kDoubling;
}

StepTimes::Place StepTimes::PlaceOf(int rows) {
  const size_t low = std::min<size_t>(std::bit_width(static_cast<unsigned>(rows)) - 1, kKnots - 1);
  return {low, low == kKnots - 1 ? 0 : static_cast<double>(rows) / (1 << low) - 1};
}

double StepTimes::Seconds(int rows) const {
  const auto [low, share] = PlaceOf(rows);
  if (low == kKnots - 1) return knots_[low].seconds * rows / (1 << low);
  return knots_[low].seconds * (1 - share) + knots_[low + 1].seconds * share;
}

void StepTimes::Add(int rows, double seconds) {
  if (rows < 1 || !(seconds > 0)) return;
  double surprise = std::log(seconds / Seconds(rows));
  if (std::exchange(empty_, false)) {
    for (Knot& knot : knots_) knot.seconds *= std::exp(surprise);
    surprise = 0;
  }
  surprise = std::clamp(surprise, -kSurpriseMax, kSurpriseMax);
  const auto [low, share] = PlaceOf(rows);
  const size_t high = std::min(low + 1, knots_.size() - 1);
  const bool well_known = knots_[low].seen * (1 - share) + knots_[high].seen * share >= kWellKnown;
  for (size_t i = 0; i < knots_.size(); ++i) {
    Knot& knot = knots_[i];
    const double near = i == low ? 1 - share : i == high ? share : 0;
    const double own = near * std::max(kGainMin, 1 / (1 + knot.seen));
    knot.seconds *= std::exp(surprise * (own + (well_known ? kDrift : 0)));
    knot.seen = knot.seen * kSeenDecay + near;
  }
  Forget();
}

void StepTimes::Forget() {
  const auto best =
      std::max_element(knots_.begin(), knots_.end(), [](const Knot& a, const Knot& b) { return a.seen < b.seen; });
  for (auto knot = knots_.begin(); knot != knots_.end(); ++knot) {
    if (knot->seen >= 1) continue;
    const double usual = best->seconds * std::pow(kDoubling, knot - best);
    knot->seconds *= std::pow(usual / knot->seconds, kForgetting);
  }
}

}  // namespace braid
