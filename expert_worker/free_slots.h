#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "base/check.h"

namespace braid {

// Which slots of so many are free. Thread-compatible.
class FreeSlots {
 public:
  explicit FreeSlots(int count) : free_(static_cast<size_t>(count)) { std::iota(free_.rbegin(), free_.rend(), 0); }

  // The one that was freed last: those that were never used stay untouched as long as possible. REQUIRES: one is free.
  int32_t Take() {
    CHECK(!free_.empty());
    const int32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void Free(int32_t slot) { free_.push_back(slot); }

  int count() const { return static_cast<int>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // a stack
};

}  // namespace braid
