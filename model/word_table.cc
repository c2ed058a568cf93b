#include "model/word_table.h"

#include <algorithm>
#include <bit>

namespace braid {

WordTable::WordTable(size_t words_max) {
  const size_t slots = std::bit_ceil(2 * words_max + 2);
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots);
}

void WordTable::Insert(std::string_view word, TokenId id) {
  longest_ = std::max(longest_, word.size());
  if (word.size() > WordKey::kBytesMax) {
    long_words_.emplace(word, id);
    return;
  }
  const WordKey key = WordKey::Of(word, 0, word.size());
  size_t at = HashOf(key) >> shift_;
  while (slots_[at].key.size != 0) {
    if (slots_[at].key == key) return;
    at = Next(at);
  }
  slots_[at] = {key, id};
}

TokenId WordTable::FindLong(std::string_view word) const {
  if (word.size() > longest_) return -1;  // a run of a megabyte is not worth hashing
  auto entry = long_words_.find(word);
  return entry == long_words_.end() ? -1 : entry->second;
}

}  // namespace braid
