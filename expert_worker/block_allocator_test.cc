#include "expert_worker/block_allocator.h"

#include <gtest/gtest.h>

#include <set>

namespace braid {
namespace {

TEST(BlockAllocator, HandsOutEveryBlockOnce) {
  BlockAllocator allocator(10);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) {
    auto blocks = allocator.Allocate(2);
    ASSERT_TRUE(blocks.ok());
    seen.insert(blocks->begin(), blocks->end());
  }
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 9);
  EXPECT_EQ(allocator.used(), 10);
}

TEST(BlockAllocator, RefusesWhatItDoesNotHaveAndKeepsTheRest) {
  BlockAllocator allocator(4);
  auto three = allocator.Allocate(3);
  ASSERT_TRUE(three.ok());
  EXPECT_EQ(allocator.Allocate(2).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(allocator.used(), 3);
  EXPECT_TRUE(allocator.Allocate(1).ok());
}

TEST(BlockAllocator, ReusesTouchedMemoryFirst) {
  BlockAllocator allocator(100);
  const auto first = *allocator.Allocate(7);
  allocator.Release(first);
  EXPECT_EQ(*allocator.Allocate(7), first);
}

TEST(BlockAllocatorDeathTest, CatchesADoubleRelease) {
  BlockAllocator allocator(2);
  const auto block = *allocator.Allocate(1);
  allocator.Release(block);
  EXPECT_DEATH(allocator.Release(block), "freed twice");
}

}  // namespace
}  // namespace braid
