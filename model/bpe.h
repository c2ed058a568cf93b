#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "model/salted_hash.h"

namespace braid {

// The merging half of byte-level BPE. Immutable and thread-safe.
class Bpe {
 public:
  struct Merge {
    TokenId left = 0, right = 0, result = 0;
  };
  // `merges` by rank: the first goes first; of two of one pair the later counts.
  Bpe(const std::array<TokenId, 256>& byte_ids, std::vector<Merge> merges);

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
      TokenId left, right;
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
  // Eight bytes and not the whole pair: half of all questions are answered by an empty slot, and the more of the table
  // lies in the nearest cache, the better.
  struct Slot {
    uint32_t tag;   // the low half of the pair's hash
    uint32_t rank;  // kNoRank: the slot is empty
  };

  uint64_t HashOf(TokenId left, TokenId right) const;
  size_t SlotOf(TokenId left, TokenId right) const;  // the pair's, or the empty one where it would be
  uint32_t RankOf(TokenId left, TokenId right) const { return slots_[SlotOf(left, right)].rank; }
  void EncodeShort(std::string_view word, std::vector<TokenId>* ids) const;
  void EncodeLong(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const;
  void Propose(int32_t at, Scratch* scratch) const;

  std::array<TokenId, 256> byte_ids_;
  SaltedHash hash_;
  int shift_;                         // leaves as many bits of a hash as there are slots
  std::vector<Slot> slots_;           // linear probing; half of them empty at least
  std::vector<uint32_t> byte_ranks_;  // (256, 256): of the pairs every word begins with
  std::vector<Merge> merges_;         // by rank
};

}  // namespace braid
