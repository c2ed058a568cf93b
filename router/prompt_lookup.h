#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace braid {

// Finds where a sequence's last tokens stood before, so that what followed them there can be guessed to follow again:
// answers copy from their prompts and repeat themselves. An index of one sequence's tokens by pairs, as LZ77
// compressors have it: every pair leads to the one before with the same hash.
//
// Adding a token takes constant time, and so does a search, whatever the tokens are: it looks at kCandidatesMax places.
// At most 16 bytes per token. Pure; thread-compatible.
class PromptLookup {
 public:
  static constexpr int kMatchMin = 2;        // a single token says too little
  static constexpr int kMatchMax = 16;       // longer ones count as this long
  static constexpr int kCandidatesMax = 16;  // the latest ones

  struct Match {
    int length = 0;  // of the tokens at the end of the log that stood together before; 0: none did
    int next = 0;    // the index of the token that followed them there
  };

  // The longest match, of those as long the latest. REQUIRES: `log` is the last call's with any number of tokens
  // behind.
  Match Find(std::span<const TokenId> log);

 private:
  void Index(std::span<const TokenId> log);
  int32_t& Latest(TokenId first, TokenId second);

  // A place is the index behind a pair, so never 0, which stands for none.
  std::vector<int32_t> latest_;   // by the pair's hash
  std::vector<int32_t> earlier_;  // by the index of the pair's second token; the first of all has none
};

}  // namespace braid
