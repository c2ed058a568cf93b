#include "expert_worker/block_allocator.h"

#include <fmt/format.h>

#include "base/check.h"

namespace braid {

BlockAllocator::BlockAllocator(int blocks) : in_use_(blocks) {
  free_.reserve(blocks);
  for (int block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

absl::StatusOr<std::vector<int32_t>> BlockAllocator::Allocate(int count) {
  CHECK_GE(count, 0);
  if (count > static_cast<int>(free_.size())) {
    return absl::ResourceExhaustedError(
        fmt::format("{} KV blocks asked for, {} of {} are free", count, free_.size(), total()));
  }
  const std::vector<int32_t> blocks(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (int32_t block : blocks) in_use_[block] = true;
  return blocks;
}

void BlockAllocator::Release(const std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    CHECK(in_use_[*block]) << "KV block " << *block << " is freed twice";
    in_use_[*block] = false;
    free_.push_back(*block);
  }
}

}  // namespace braid
