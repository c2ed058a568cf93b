#pragma once

#include <bitset>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "model/tokenizer_spec.h"

namespace braid {

// Finds tokens that are matched verbatim, leftmost first and the longest there, before anything else happens to a text.
// Immutable and thread-safe.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<TokenizerSpec::AddedToken> tokens);

  struct Piece {
    TokenId id = -1;  // -1: ordinary text
    std::string_view text;
  };
  // The text cut at its tokens. Without `parse_specials` the special ones are passed over as ordinary text. A token
  // with lstrip or rstrip takes the white space beside it along; a single_word token counts only between non-word
  // characters.
  std::vector<Piece> Split(std::string_view text, bool parse_specials) const;

 private:
  bool MayBeginAt(std::string_view text, size_t at) const;
  const TokenizerSpec::AddedToken* LongestAt(std::string_view text, size_t at) const;

  std::vector<TokenizerSpec::AddedToken> tokens_;
  // A trie: (node << 8 | byte) to the next node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> token_of_node_;  // index into tokens_, -1: none ends here
  // What lets Split pass over most of a text without a look into the trie: the first bytes of tokens, and the first
  // two.
  bool begins_[256] = {};
  std::bitset<256 * 256> begins_with_two_;
  bool only_specials_ = true;
};

}  // namespace braid
