#pragma once

#include <cstdint>

#include "absl/hash/hash.h"

namespace braid {

// Hashes two words for the flat tables that the tokenizer looks into for every word of a text. One wide multiplication;
// the salt differs from process to process, so that no file can be written whose entries all collide.
class SaltedHash {
 public:
  SaltedHash() : first_(absl::Hash<int>()(1)), second_(absl::Hash<int>()(2)) {}

  uint64_t operator()(uint64_t first, uint64_t second) const {
    const auto product = static_cast<unsigned __int128>(first ^ first_) * (second ^ second_);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

 private:
  uint64_t first_, second_;  // absl's seed is an address that the loader chose
};

}  // namespace braid
