#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace braid {

// Counts tokens over the last day in buckets of one minute. Pure: time comes in. Thread-compatible.
class TokenWindow {
 public:
  explicit TokenWindow(absl::Time start);

  // `now` may stand still but must not run backwards by more than a minute; older tokens count as of the latest minute.
  void Add(int64_t tokens, absl::Time now);

  // Tokens of the last 24 hours, to the minute.
  int64_t LastDay(absl::Time now);
  // Tokens of a whole day at the rate of the last five minutes (of the time since `start`, while that is shorter).
  double PerDay(absl::Time now);

 private:
  static constexpr int kMinutes = 24 * 60;
  static constexpr int kRateMinutes = 5;

  void Advance(absl::Time now);
  int64_t Sum(int minutes) const;  // the running minute and those before it

  const absl::Time start_;
  std::array<int64_t, kMinutes> buckets_{};  // by minute since start_, modulo
  int64_t minute_ = 0;                       // the running one
};

}  // namespace braid
