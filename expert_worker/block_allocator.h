#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace braid {

// Which KV blocks of the pool are free. A sequence gets all blocks it will ever need when it starts, so it can never
// run out half-way. Those it shares are counted by reference: free when nobody has them any more. Thread-compatible.
class BlockAllocator {
 public:
  explicit BlockAllocator(int blocks);  // numbered [0, blocks), all free

  // `count` distinct blocks, recently freed ones first: memory that was never used stays untouched as long as possible.
  // kResourceExhausted if fewer are free. REQUIRES: count >= 0.
  absl::StatusOr<std::vector<int32_t>> Allocate(int count);
  // One more has these. REQUIRES: none of them is free.
  void Share(std::span<const int32_t> blocks);
  // One less has these. REQUIRES: none of them is free.
  void Release(std::span<const int32_t> blocks);

  int total() const { return static_cast<int>(references_.size()); }
  int used() const { return total() - static_cast<int>(free_.size()); }

 private:
  std::vector<int32_t> free_;        // a stack
  std::vector<int32_t> references_;  // by block
};

}  // namespace braid
