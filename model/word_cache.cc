#include "model/word_cache.h"

#include <algorithm>
#include <bit>

namespace braid {
namespace {

// 256 KiB at most, which is cleared in microseconds and stays in the second-level cache. English has some 150 bytes of
// text to each word that must be merged.
constexpr size_t kSlotsMax = 4096;
constexpr size_t kTextBytesPerSlot = 128;

}  // namespace

WordCache::WordCache(size_t text_bytes)
    : slots_(std::bit_floor(std::clamp<size_t>(text_bytes / kTextBytesPerSlot, 1, kSlotsMax))) {}

void WordCache::Put(const WordKey& key, uint64_t hash, std::span<const TokenId> ids) {
  Slot& slot = slots_[hash & (slots_.size() - 1)];
  if (ids.size() > slot.ids.size()) return;
  slot.low = key.low;
  slot.high = key.high;
  slot.size = static_cast<uint16_t>(key.size);
  slot.count = static_cast<uint16_t>(ids.size());
  std::copy(ids.begin(), ids.end(), slot.ids.begin());
}

}  // namespace braid
