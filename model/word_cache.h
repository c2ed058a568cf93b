#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "model/word_key.h"

namespace braid {

// What the words of one text were merged to: texts repeat themselves. One lives as long as a text is being encoded, so
// that nobody waits for a lock and nothing of one caller's text is there when the next one's comes. A word takes the
// place of another of the same slot: bounded, whatever the text. Thread-compatible.
class WordCache {
 public:
  explicit WordCache(size_t text_bytes);

  // Empty if the word is not there. Valid until the next Put.
  std::span<const TokenId> Find(const WordKey& key, uint64_t hash) const {
    const Slot& slot = slots_[hash & (slots_.size() - 1)];
    if (slot.low != key.low || slot.high != key.high || slot.size != key.size) return {};
    return {slot.ids.data(), slot.count};
  }
  // Does nothing if there are too many ids for a slot.
  void Put(const WordKey& key, uint64_t hash, std::span<const TokenId> ids);

 private:
  struct alignas(64) Slot {  // one cache line
    uint64_t low = 0, high = 0;
    uint16_t size = 0, count = 0;
    std::array<TokenId, 11> ids;
  };
  static_assert(sizeof(Slot) == 64);

  std::vector<Slot> slots_;
};

}  // namespace braid
