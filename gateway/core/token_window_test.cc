#include "gateway/core/token_window.h"

#include <gtest/gtest.h>

namespace braid {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

TEST(TokenWindow, StartsAtZero) {
  TokenWindow window(kStart);
  EXPECT_EQ(window.LastDay(kStart), 0);
  EXPECT_EQ(window.PerDay(kStart), 0);
}

TEST(TokenWindow, ExtrapolatesASteadyRateExactly) {
  TokenWindow window(kStart);
  for (int second = 1; second <= 1000; ++second) window.Add(10, kStart + absl::Seconds(second));
  EXPECT_NEAR(window.PerDay(kStart + absl::Seconds(1000)), 864'000, 864'000 * 0.01);
}

TEST(TokenWindow, RateUsesTheTimeSinceStartWhileThatIsShort) {
  TokenWindow window(kStart);
  window.Add(100, kStart + absl::Seconds(5));
  EXPECT_DOUBLE_EQ(window.PerDay(kStart + absl::Seconds(10)), 10.0 * 86400);
}

TEST(TokenWindow, RateFallsToZeroAfterFiveIdleMinutes) {
  TokenWindow window(kStart);
  window.Add(1000, kStart + absl::Seconds(30));
  EXPECT_GT(window.PerDay(kStart + absl::Minutes(4)), 0);
  EXPECT_EQ(window.PerDay(kStart + absl::Minutes(6)), 0);
}

TEST(TokenWindow, ForgetsAMinuteAfterADay) {
  TokenWindow window(kStart);
  window.Add(7, kStart);
  window.Add(5, kStart + absl::Minutes(1));
  EXPECT_EQ(window.LastDay(kStart + absl::Hours(24) - absl::Seconds(1)), 12);
  EXPECT_EQ(window.LastDay(kStart + absl::Hours(24)), 5);
  EXPECT_EQ(window.LastDay(kStart + absl::Hours(24) + absl::Minutes(1)), 0);
}

TEST(TokenWindow, SurvivesAGapLongerThanItself) {
  TokenWindow window(kStart);
  window.Add(7, kStart);
  EXPECT_EQ(window.LastDay(kStart + absl::Hours(100)), 0);
  window.Add(3, kStart + absl::Hours(100));
  EXPECT_EQ(window.LastDay(kStart + absl::Hours(100)), 3);
}

TEST(TokenWindow, AClockThatRunsBackLosesNothing) {
  TokenWindow window(kStart);
  window.Add(1, kStart + absl::Minutes(10));
  window.Add(2, kStart + absl::Minutes(9));
  EXPECT_EQ(window.LastDay(kStart + absl::Minutes(10)), 3);
}

}  // namespace
}  // namespace braid
