#include "router/affinity.h"

#include <algorithm>
#include <vector>

namespace braid {
namespace {

constexpr size_t kBeginningMin = 32;

// Hashes of the prompt's beginnings, the shortest first (FNV-1a, 64 bits: a collision costs time, never a bit).
std::vector<uint64_t> Beginnings(std::span<const TokenId> prompt) {
  std::vector<uint64_t> hashes;
  uint64_t hash = 14695981039346656037u;
  size_t at = 0;
  for (size_t length = kBeginningMin; length <= prompt.size(); length *= 2) {
    for (; at < length; ++at) hash = (hash ^ static_cast<uint32_t>(prompt[at])) * 1099511628211u;
    hashes.push_back(hash);
  }
  return hashes;
}

}  // namespace

std::optional<std::string> Affinity::Find(std::span<const TokenId> prompt) const {
  const std::vector<uint64_t> beginnings = Beginnings(prompt);
  for (auto hash = beginnings.rbegin(); hash != beginnings.rend(); ++hash) {
    auto found = by_beginning_.find(*hash);
    if (found != by_beginning_.end()) return found->second->second;
  }
  return std::nullopt;
}

void Affinity::Remember(std::span<const TokenId> prompt, const std::string& group) {
  for (uint64_t hash : Beginnings(prompt)) {
    auto found = by_beginning_.find(hash);
    if (found != by_beginning_.end()) entries_.erase(found->second);
    entries_.emplace_front(hash, group);
    by_beginning_[hash] = entries_.begin();
  }
  while (entries_.size() > entries_max_) {
    by_beginning_.erase(entries_.back().first);
    entries_.pop_back();
  }
}

}  // namespace braid
