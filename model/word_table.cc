// Linear probing in a table of a power of two. A short word is compared, hashed and stored as two integers, which are
// read straight out of the text: no loop over its bytes, no pointer to follow.

#include "model/word_table.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace braid {
namespace {

static_assert(std::endian::native == std::endian::little);  // the first bytes are the low ones

// The lowest `bytes` bytes; all from eight on.
uint64_t Low(uint64_t word, size_t bytes) { return bytes >= 8 ? word : word & ~(~uint64_t{0} << 8 * bytes); }

}  // namespace

WordTable::WordTable(size_t words_max) {
  const size_t slots = std::bit_ceil(2 * words_max + 2);
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots);
}

WordTable::Key WordTable::KeyOf(std::string_view text, size_t at, size_t size) {
  uint64_t words[2];
  if (text.size() - at >= sizeof(words)) {
    std::memcpy(words, text.data() + at, sizeof(words));
  } else {
    words[0] = words[1] = 0;
    std::memcpy(words, text.data() + at, size);
  }
  return {Low(words[0], size), size > 8 ? Low(words[1], size - 8) : 0, static_cast<uint32_t>(size)};
}

void WordTable::Insert(std::string_view word, TokenId id) {
  longest_ = std::max(longest_, word.size());
  if (word.size() > kShortMax) {
    long_words_.emplace(word, id);
    return;
  }
  const Key key = KeyOf(word, 0, word.size());
  size_t at = Home(key);
  while (slots_[at].key.size != 0 && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
  if (slots_[at].key.size == 0) slots_[at] = {key, id};
}

TokenId WordTable::Find(std::string_view text, size_t at, size_t size) const {
  if (size > kShortMax) {
    if (size > longest_) return -1;
    auto entry = long_words_.find(text.substr(at, size));
    return entry == long_words_.end() ? -1 : entry->second;
  }
  const Key key = KeyOf(text, at, size);
  for (size_t i = Home(key);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].key == key) return slots_[i].id;
    if (slots_[i].key.size == 0) return -1;
  }
}

}  // namespace braid
