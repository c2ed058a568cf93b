#include "cli/bench_engine/engine_bench.h"

#include <gtest/gtest.h>

namespace braid {
namespace {
TEST(EngineBench, TakesTheMiddle) { EXPECT_EQ(Median({3, 1, 2}), 2); }
}  // namespace
}  // namespace braid
