#include "expert_worker/block_allocator.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/planted_bug.h"

namespace braid {

BlockAllocator::BlockAllocator(int blocks) : references_(blocks) {
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
  for (int32_t block : blocks) references_[block] = 1;
  return blocks;
}

void BlockAllocator::Share(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    CHECK_GE(references_[block], 1) << "KV block " << block << " is free";
    ++references_[block];
  }
}

void BlockAllocator::Release(std::span<const int32_t> blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    CHECK_GE(references_[*block], 1) << "KV block " << *block << " is freed twice";
    if (--references_[*block] == 0 || Planted(Bug::kFreesSharedBlocks)) free_.push_back(*block);
  }
}

}  // namespace braid
