#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace braid {

// Which group has seen the beginning of a prompt before: the next turn of a conversation, or another request with the
// same instructions, finds more in that group's caches than elsewhere. Remembers a bounded number of beginnings, of
// 32, 64, 128, ... tokens, and forgets the ones that were not seen for longest. Thread-compatible.
class Affinity {
 public:
  explicit Affinity(size_t entries_max) : entries_max_(entries_max) {}

  // The group of the longest beginning that is known.
  std::optional<std::string> Find(std::span<const TokenId> prompt) const;
  void Remember(std::span<const TokenId> prompt, const std::string& group);
  size_t size() const { return by_beginning_.size(); }

 private:
  using Entries = std::list<std::pair<uint64_t, std::string>>;  // the latest first

  const size_t entries_max_;
  Entries entries_;
  absl::flat_hash_map<uint64_t, Entries::iterator> by_beginning_;
};

}  // namespace braid
