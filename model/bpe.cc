// Short words: the symbols lie in an array, the rank of each one's pair with the next beside it; the lowest rank is
// searched for and the rest moved up after every merge. Quadratic, but faster than anything cleverer at these sizes.
//
// Long ones: the symbols are a doubly linked list in an array; a heap holds every pair that could merge. A merge writes
// its result into the left symbol, takes the right one out of the list and proposes the two new pairs. Proposals that
// have become stale stay in the heap and are recognised by their ids: a symbol only ever grows, so a pair of the same
// ids at the same place is the same pair.

#include "model/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/check.h"

namespace braid {
namespace {

constexpr TokenId kGone = -1;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// The heap begins to win between 128 and 256 bytes.
constexpr size_t kShortMax = 128;

}  // namespace

Bpe::Bpe(const std::array<TokenId, 256>& byte_ids, std::vector<Merge> merges)
    : byte_ids_(byte_ids), merges_(std::move(merges)) {
  CHECK_LT(merges_.size(), size_t{kNoRank});
  const size_t slots = std::bit_ceil(2 * merges_.size() + 2);
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots, {0, kNoRank});
  for (uint32_t rank = 0; rank < merges_.size(); ++rank) {
    const auto& [left, right, result] = merges_[rank];
    slots_[SlotOf(left, right)] = {static_cast<uint32_t>(HashOf(left, right)), rank};
  }
  byte_ranks_.reserve(256 * 256);
  for (TokenId left : byte_ids_)
    for (TokenId right : byte_ids_) byte_ranks_.push_back(RankOf(left, right));
}

uint64_t Bpe::HashOf(TokenId left, TokenId right) const {
  return hash_(static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right), 0);
}

size_t Bpe::SlotOf(TokenId left, TokenId right) const {
  const uint64_t hash = HashOf(left, right);
  for (size_t at = hash >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
    const auto& [tag, rank] = slots_[at];
    if (rank == kNoRank) return at;
    if (tag == static_cast<uint32_t>(hash) && merges_[rank].left == left && merges_[rank].right == right) return at;
  }
}

void Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const {
  word.size() <= kShortMax ? EncodeShort(word, ids) : EncodeLong(word, scratch, ids);
}

void Bpe::EncodeShort(std::string_view word, std::vector<TokenId>* ids) const {
  TokenId symbols[kShortMax];
  uint32_t ranks[kShortMax];  // of a symbol and the next
  size_t count = word.size();
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(word[i]); };
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[byte(i)];
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = byte_ranks_[byte(i) << 8 | byte(i + 1)];
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) best = ranks[i] < ranks[best] ? i : best;
    if (ranks[best] == kNoRank) break;
    symbols[best] = merges_[ranks[best]].result;
    --count;
    for (size_t i = best + 1; i < count; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 1 < count; ++i) ranks[i] = ranks[i + 1];
    if (best + 1 < count) ranks[best] = RankOf(symbols[best], symbols[best + 1]);
    if (best > 0) ranks[best - 1] = RankOf(symbols[best - 1], symbols[best]);
  }
  ids->insert(ids->end(), symbols, symbols + count);
}

void Bpe::Propose(int32_t at, Scratch* scratch) const {
  const auto& symbols = scratch->symbols;
  if (at < 0 || symbols[at].next < 0) return;
  const TokenId left = symbols[at].id, right = symbols[symbols[at].next].id;
  const uint32_t rank = RankOf(left, right);
  if (rank == kNoRank) return;
  scratch->heap.push_back({rank, at, left, right});
  std::push_heap(scratch->heap.begin(), scratch->heap.end());
}

void Bpe::EncodeLong(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const {
  CHECK_LT(word.size(), static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const int32_t count = static_cast<int32_t>(word.size());
  symbols.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({byte_ids_[static_cast<uint8_t>(word[i])], i - 1, i + 1 < count ? i + 1 : -1});
  }
  heap.clear();
  for (int32_t i = 0; i < count; ++i) Propose(i, scratch);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    auto& left = symbols[best.at];
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right) continue;
    auto& right = symbols[left.next];
    left.id = merges_[best.rank].result;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = best.at;
    Propose(left.previous, scratch);
    Propose(best.at, scratch);
  }
  for (const auto& symbol : symbols) {
    if (symbol.id != kGone) ids->push_back(symbol.id);
  }
}

}  // namespace braid
