// A test program that says what the emulator did in it.

#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>

#include "tests/cuda_emulator/simt.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  const simt::Counts counts = simt::Totals();
  std::printf("emulated %" PRIu64 " launches, %" PRIu64 " blocks, %" PRIu64 " switches of threads; %zu seeds\n",
              counts.launches, counts.blocks, counts.switches, simt::Seeds().size());
  return result;
}
