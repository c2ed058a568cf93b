#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace braid {

// The merging half of byte-level BPE. Immutable and thread-safe.
class Bpe {
 public:
  struct Merge {
    uint32_t rank = 0;  // the lowest goes first
    TokenId result = 0;
  };
  using Merges = absl::flat_hash_map<std::pair<TokenId, TokenId>, Merge>;

  Bpe(const std::array<TokenId, 256>& byte_ids, Merges merges) : byte_ids_(byte_ids), merges_(std::move(merges)) {}

  // Working memory of Encode, kept between words.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      TokenId id;
      int32_t previous, next;  // -1 at the ends
    };
    struct Candidate {
      uint32_t rank;
      int32_t at;  // the left symbol
      TokenId left, right, result;
      // A heap has the largest on top: lower ranks are larger, then earlier places.
      bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // Appends the ids of one pre-token: the merge of lowest rank, leftmost first, until none is left.
  // O(n log n). REQUIRES: word is shorter than 2 GiB.
  void Encode(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const;

 private:
  void Propose(int32_t at, Scratch* scratch) const;

  std::array<TokenId, 256> byte_ids_;
  Merges merges_;
};

}  // namespace braid
