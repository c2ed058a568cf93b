#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace braid {

// Which KV blocks of the pool are free. A sequence gets all blocks it will ever need when it starts, so it can never
// run out half-way. Thread-compatible.
class BlockAllocator {
 public:
  explicit BlockAllocator(int blocks);  // numbered [0, blocks), all free

  // `count` distinct blocks, recently freed ones first: memory that was never used stays untouched as long as possible.
  // kResourceExhausted if fewer are free. REQUIRES: count >= 0.
  absl::StatusOr<std::vector<int32_t>> Allocate(int count);
  // REQUIRES: every block was allocated and is not free.
  void Release(const std::vector<int32_t>& blocks);

  int total() const { return static_cast<int>(in_use_.size()); }
  int used() const { return total() - static_cast<int>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // a stack
  std::vector<bool> in_use_;   // by block
};

}  // namespace braid
