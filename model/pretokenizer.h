#pragma once

#include <cstddef>
#include <string_view>

#include "model/tokenizer_spec.h"

namespace braid {

// Where the pre-token ends that begins at `at`; pre-tokens cover the text without gaps, and BPE never merges across
// them. The patterns are those of the tokenizers they are named after, written by hand: a regular expression would be
// several times slower, and libraries disagree on \s and on the version of Unicode. Walking a text is linear in it.
// REQUIRES: at < text.size(), and at is 0 or an end returned before.
size_t PreTokenEnd(TokenizerSpec::PreTokenizer kind, std::string_view text, size_t at);

}  // namespace braid
