#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "model/tokenizer_spec.h"

namespace braid {

// Finds tokens that are matched verbatim, leftmost first and the longest there, before anything else happens to a text.
// Immutable and thread-safe.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<TokenizerSpec::AddedToken> tokens);

  // Walks a text from token to token; matcher and text must outlive it. Without `parse_specials` the special ones are
  // passed over as ordinary text. A token with lstrip or rstrip takes the white space beside it along; a single_word
  // token counts only between non-word characters.
  class Cursor {
   public:
    Cursor(const AddedTokenMatcher& matcher, std::string_view text, bool parse_specials);

    // Moves to the next token; false if there is none, and then before() is what remains.
    bool Next();
    TokenId id() const { return id_; }
    // The ordinary text between the token before and this one; may be empty.
    std::string_view before() const { return before_; }

   private:
    bool Counts(const TokenizerSpec::AddedToken& token, size_t begin) const;

    const AddedTokenMatcher& matcher_;
    std::string_view text_, before_;
    bool parse_specials_;
    TokenId id_ = -1;
    size_t at_ = 0;    // where to look next
    size_t done_ = 0;  // everything before has been handed out
  };

 private:
  // A node of a trie, in the order of breadth: the byte edge_bytes_[i] leads to node i + 1.
  struct Node {
    uint32_t edges = 0, edge_count = 0;
    int32_t token = -1;  // index into tokens_; -1: none ends here
  };

  void BuildTrie();
  // The next place from `at` on where a token may begin, or the end.
  size_t NextCandidate(std::string_view text, size_t at) const;
  const TokenizerSpec::AddedToken* LongestAt(std::string_view text, size_t at) const;

  std::vector<TokenizerSpec::AddedToken> tokens_;  // by text
  std::vector<Node> nodes_;
  std::string edge_bytes_;
  // Passes over most of a text without a look into the trie: the first two bytes of tokens, and any two that begin with
  // a token of one byte.
  std::bitset<256 * 256> begins_;
  bool only_specials_ = true;
};

}  // namespace braid
