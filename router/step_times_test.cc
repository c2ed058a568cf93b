#include "router/step_times.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

namespace braid {
namespace {

double Ratio(const StepTimes& times, int rows, int to) { return times.Seconds(rows) / times.Seconds(to); }

TEST(StepTimes, GuessesFromWhatIsUsual) {
  StepTimes times;
  times.Add(1, 0.02);
  EXPECT_NEAR(times.Seconds(1), 0.02, 1e-9);
  EXPECT_NEAR(Ratio(times, 4, 1), 2.25, 0.01);
}

TEST(StepTimes, LearnsARatioFromAFewSteps) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) times.Add(1, 0.02);
  for (int i = 0; i < 5; ++i) times.Add(4, 0.022);
  EXPECT_NEAR(Ratio(times, 4, 1), 1.1, 0.05);
}

TEST(StepTimes, LearnsAnyCurve) {
  std::mt19937 rng(1);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  for (const auto& curve : std::initializer_list<std::function<double(int)>>{
           [](int rows) { return 0.01 + 0.0001 * rows; }, [](int rows) { return 0.01 * rows; }}) {
    StepTimes times;
    for (int i = 0; i < 3000; ++i) {
      const int rows = 1 << rng() % 10;
      times.Add(rows, curve(rows) * noise(rng));
    }
    for (int rows : {1, 2, 6, 8, 100, 512}) EXPECT_NEAR(times.Seconds(rows) / curve(rows), 1, 0.15) << rows;
  }
}

TEST(StepTimes, ContextsThatGrowDoNotChangeRatiosMuch) {
  StepTimes times;
  for (int i = 0; i < 100; ++i) {
    times.Add(1, 0.01);
    times.Add(8, 0.03);
  }
  for (int i = 0; i < 200; ++i) times.Add(1, 0.01 + 0.01 * i / 200);  // twice as long in the end
  EXPECT_GT(Ratio(times, 8, 1), 2);
  EXPECT_LT(Ratio(times, 8, 1), 4.5);
}

TEST(StepTimes, OneStepThatStoodStillChangesLittle) {
  StepTimes times;
  for (int i = 0; i < 100; ++i) {
    times.Add(1, 0.01);
    times.Add(4, 0.02);
  }
  times.Add(4, 10);
  EXPECT_LT(Ratio(times, 4, 1), 2.3);
}

TEST(StepTimes, ForgetsWhatWasDearLongAgo) {
  StepTimes times;
  times.Add(1, 0.01);
  times.Add(4, 0.03);
  const double dear = Ratio(times, 4, 1);
  for (int i = 0; i < 50; ++i) times.Add(1, 0.01);
  EXPECT_GT(Ratio(times, 4, 1), dear * 0.8) << "not at once";
  for (int i = 0; i < 3000; ++i) times.Add(1, 0.01);
  EXPECT_NEAR(Ratio(times, 4, 1), 2.25, 0.05);
}

TEST(StepTimes, StepsThatOnlyForgetSequencesSayNothing) {
  StepTimes times;
  times.Add(1, 0.02);
  times.Add(0, 0.0001);
  EXPECT_NEAR(times.Seconds(1), 0.02, 1e-9);
  EXPECT_NEAR(Ratio(times, 4096, 1), StepTimes().Seconds(4096), 1e-6);
}

TEST(StepTimes, TakesAnyStep) {
  StepTimes times;
  for (const int rows : {1, 4095, 4096, 4097, 1 << 20}) {
    for (const double seconds : {0.0, -1.0, 1e-9, 1e9}) times.Add(rows, seconds);
    EXPECT_GT(times.Seconds(rows), 0);
    EXPECT_LT(times.Seconds(rows), 1e15);
  }
}

}  // namespace
}  // namespace braid
