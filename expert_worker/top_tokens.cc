#include "expert_worker/top_tokens.h"

#include <algorithm>
#include <limits>

namespace braid {
namespace {

// Values looked at side by side: four AVX registers, and the compiler needs no permission to reorder anything.
constexpr size_t kLanes = 32;

float MaxOf(std::span<const float> values) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  for (; i < values.size(); ++i) lanes[0] = std::max(lanes[0], values[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

}  // namespace

std::vector<ScoredToken> TopTokens(std::span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  std::vector<ScoredToken> best;
  if (count == 0) return best;
  // Collects up to twice as many as needed and then keeps the better half. Once a half has been kept its worst member
  // is a bar, and nearly all of a vocabulary fails one comparison with it. Equal to the bar is not enough: the members
  // have lower ids.
  const size_t room = std::max<size_t>(2 * count, 64);
  best.reserve(room);
  float bar = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > bar)) continue;
    best.push_back({logits[i], static_cast<TokenId>(i)});
    if (best.size() < room) continue;
    std::nth_element(best.begin(), best.begin() + (count - 1), best.end(), Before);
    best.resize(count);
    bar = best.back().logit;
  }
  const size_t kept = std::min(count, best.size());
  if (kept < best.size()) std::nth_element(best.begin(), best.begin() + kept, best.end(), Before);
  best.resize(kept);
  std::sort(best.begin(), best.end(), Before);
  return best;
}

TokenId ArgMax(std::span<const float> logits) {
  const auto best = std::find(logits.begin(), logits.end(), MaxOf(logits));
  return static_cast<TokenId>(best - logits.begin());
}

bool AllFinite(std::span<const float> logits) {
  // x * 0 is 0 for finite x and NaN for all others, and NaN stays in a sum.
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += logits[i + lane] * 0.0f;
  }
  for (; i < logits.size(); ++i) lanes[0] += logits[i] * 0.0f;
  return std::all_of(lanes, lanes + kLanes, [](float poison) { return poison == 0.0f; });
}

}  // namespace braid
