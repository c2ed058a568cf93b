#pragma once

#include <cstdint>
#include <optional>

// Arithmetic on sizes that come from files and wires. A value that overflows becomes, and stays, invalid: check once
// at the end. Source of the rule: four CVEs in one GGUF reader, each a single unchecked multiplication.

namespace braid {

class CheckedSize {
 public:
  constexpr CheckedSize(uint64_t value) : value_(value) {}  // NOLINT: implicit on purpose, so that a * b * 4 reads well

  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) {
    uint64_t sum = 0;
    return __builtin_add_overflow(a.value_, b.value_, &sum) || a.overflow_ || b.overflow_ ? Overflow()
                                                                                          : CheckedSize(sum);
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) {
    uint64_t product = 0;
    return __builtin_mul_overflow(a.value_, b.value_, &product) || a.overflow_ || b.overflow_ ? Overflow()
                                                                                              : CheckedSize(product);
  }
  // The smallest multiple of `alignment` that is not below this. REQUIRES: alignment > 0.
  constexpr CheckedSize AlignUp(uint64_t alignment) const {
    CheckedSize up = *this + (alignment - 1);
    return up.overflow_ ? up : CheckedSize(up.value_ / alignment * alignment);
  }

  constexpr std::optional<uint64_t> value() const { return overflow_ ? std::nullopt : std::optional(value_); }
  // True if this neither overflowed nor exceeds `limit`.
  constexpr bool AtMost(uint64_t limit) const { return !overflow_ && value_ <= limit; }

 private:
  static constexpr CheckedSize Overflow() {
    CheckedSize size(0);
    size.overflow_ = true;
    return size;
  }
  uint64_t value_;
  bool overflow_ = false;
};

}  // namespace braid
