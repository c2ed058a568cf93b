#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "model/salted_hash.h"

namespace braid {

// The words that are one token each: nine in ten words of a text end here. Thread-compatible; Find is const.
class WordTable {
 public:
  explicit WordTable(size_t words_max);

  // The first entry of a word counts. `word` must outlive the table. REQUIRES: called at most words_max times.
  void Insert(std::string_view word, TokenId id);

  // The token of the `size` bytes at `at`, or -1. REQUIRES: size > 0 and the bytes lie within the text.
  TokenId Find(std::string_view text, size_t at, size_t size) const;

 private:
  // A word of up to 16 bytes, zeros behind it. Two slots share a cache line and none straddles two.
  struct Key {
    uint64_t low, high;
    uint32_t size;  // tells "a" from "a\0"
    bool operator==(const Key&) const = default;
  };
  struct alignas(32) Slot {
    Key key;
    TokenId id;
  };
  static constexpr size_t kShortMax = 16;

  static Key KeyOf(std::string_view text, size_t at, size_t size);
  size_t Home(const Key& key) const { return hash_(key.low, key.high + key.size) >> shift_; }

  SaltedHash hash_;
  int shift_;                // leaves as many bits of a hash as there are slots
  std::vector<Slot> slots_;  // half of them empty at least: size 0
  absl::flat_hash_map<std::string_view, TokenId> long_words_;
  size_t longest_ = 0;
};

}  // namespace braid
