#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace braid {

// What a model file says about its tokenizer; byte-level BPE only. Tokens are in GPT-2's printable spelling of bytes,
// except added tokens, which are plain text.
struct TokenizerSpec {
  enum class PreTokenizer { kGpt2, kLlama3, kQwen2, kLfm2 };
  struct AddedToken {
    TokenId id = 0;
    std::string text;
    bool special = true;  // control token: only a template may produce it, never a user's text
    bool lstrip = false, rstrip = false, single_word = false, normalized = false;
  };

  std::vector<std::string> tokens;                          // by id; empty string: no such token
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer = PreTokenizer::kLfm2;
  bool ignore_merges = false;  // a pre-token that is a vocabulary entry is emitted as it is
  bool add_bos = true;         // before raw text
  bool add_prefix_space = false;
  std::optional<TokenId> bos, eos, pad;
};

}  // namespace braid
