#include "tests/on_gpu/global_array.h"

#include <gtest/gtest-spi.h>

#include <cmath>

#include "kernels/cuda/swiglu.h"

namespace simt {
namespace {

TEST(GlobalArray, HoldsNoNumbersUntilTheyAreWritten) {
  GlobalArray<float> array(100);
  for (const float value : array.values()) EXPECT_TRUE(std::isnan(value));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(array.data()) % 16, 0u);
}

TEST(GlobalArray, SaysThatSomethingWasWrittenBesideIt) {
  EXPECT_NONFATAL_FAILURE(
      {
        GlobalArray<float> array(3);
        array.data()[3] = 0;
      },
      "behind an array of 3");
  EXPECT_NONFATAL_FAILURE(
      {
        GlobalArray<float> array(3);
        array.data()[-1] = 0;
      },
      "before an array of 3");
}

TEST(GlobalArray, ShowsWhatAKernelHasWrittenAndWhereItShouldNot) {
  GlobalArray<float> gate_up(std::vector<float>(16));
  const auto run = [&](size_t room) {
    GlobalArray<float> y(room);
    braid::gpu::SwiGlu op{1, 8, braid::DType::kF32, gate_up.data(), y.data()};
    EXPECT_EQ(braid::gpu::Run(op, nullptr), cudaSuccess);
    EXPECT_EQ(y[0], 0);
  };
  run(8);
  EXPECT_NONFATAL_FAILURE(run(7), "behind an array of 7");
}

}  // namespace
}  // namespace simt
