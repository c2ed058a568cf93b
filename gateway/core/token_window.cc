#include "gateway/core/token_window.h"

#include <algorithm>

namespace braid {

TokenWindow::TokenWindow(absl::Time start) : start_(start) {}

void TokenWindow::Add(int64_t tokens, absl::Time now) {
  Advance(now);
  buckets_[static_cast<size_t>(minute_ % kMinutes)] += tokens;
}

int64_t TokenWindow::LastDay(absl::Time now) {
  Advance(now);
  return Sum(kMinutes);
}

double TokenWindow::PerDay(absl::Time now) {
  Advance(now);
  // The buckets cover the running minute's part and the kRateMinutes - 1 before it.
  const absl::Time running = start_ + absl::Minutes(minute_);
  const absl::Duration covered = std::min(now - start_, now - running + absl::Minutes(kRateMinutes - 1));
  const double seconds = std::max(absl::ToDoubleSeconds(covered), 1.0);
  return static_cast<double>(Sum(kRateMinutes)) / seconds * absl::ToDoubleSeconds(absl::Hours(24));
}

void TokenWindow::Advance(absl::Time now) {
  const int64_t minute = absl::ToInt64Minutes(now - start_);
  const int64_t steps = std::min<int64_t>(minute - minute_, kMinutes);
  for (int64_t i = 0; i < steps; ++i) buckets_[static_cast<size_t>((minute - i) % kMinutes)] = 0;
  minute_ = std::max(minute_, minute);
}

int64_t TokenWindow::Sum(int minutes) const {
  int64_t sum = 0;
  const int64_t count = std::min<int64_t>(minutes, minute_ + 1);
  for (int64_t i = 0; i < count; ++i) sum += buckets_[static_cast<size_t>((minute_ - i) % kMinutes)];
  return sum;
}

}  // namespace braid
