#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "model/word_key.h"

namespace braid {

// The words that are one token each: nine in ten words of a text end here. Thread-compatible.
class WordTable {
 public:
  explicit WordTable(size_t words_max);

  // The first entry of a word counts. `word` must outlive the table. REQUIRES: not empty; called at most words_max
  // times.
  void Insert(std::string_view word, TokenId id);

  uint64_t HashOf(const WordKey& key) const { return key.Hash(hash_); }
  void Prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash >> shift_]); }
  // The token, or -1. REQUIRES: hash == HashOf(key).
  TokenId Find(const WordKey& key, uint64_t hash) const {
    size_t at = hash >> shift_;
    while (slots_[at].key != key && slots_[at].key.size != 0) at = Next(at);
    return slots_[at].id;
  }
  // The same for words that have no key.
  TokenId FindLong(std::string_view word) const;

 private:
  // Two share a cache line and none straddles two.
  struct alignas(32) Slot {
    WordKey key;  // of size 0: the slot is empty
    TokenId id = -1;
  };
  size_t Next(size_t slot) const { return (slot + 1) & (slots_.size() - 1); }

  SaltedHash hash_;
  int shift_;                // leaves as many bits of a hash as there are slots
  std::vector<Slot> slots_;  // linear probing; half of them empty at least
  absl::flat_hash_map<std::string_view, TokenId> long_words_;
  size_t longest_ = 0;
};

}  // namespace braid
