// The symbols of a word are a doubly linked list in an array; a heap holds every pair that could merge. A merge writes
// its result into the left symbol, takes the right one out of the list and proposes the two new pairs. Proposals that
// have become stale stay in the heap and are recognised by their ids: a symbol only ever grows, so a pair of the same
// ids at the same place is the same pair.

#include "model/bpe.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace braid {
namespace {
constexpr TokenId kGone = -1;
}  // namespace

void Bpe::Propose(int32_t at, Scratch* scratch) const {
  const auto& symbols = scratch->symbols;
  if (at < 0 || symbols[at].next < 0) return;
  const TokenId left = symbols[at].id, right = symbols[symbols[at].next].id;
  auto merge = merges_.find({left, right});
  if (merge == merges_.end()) return;
  scratch->heap.push_back({merge->second.rank, at, left, right, merge->second.result});
  std::push_heap(scratch->heap.begin(), scratch->heap.end());
}

void Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const {
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
    left.id = best.result;
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
