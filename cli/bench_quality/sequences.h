#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "model/tokenizer.h"

namespace braid {

// What is run through the engines: token sequences, each from position 0.
using TokenSequences = std::vector<std::vector<TokenId>>;

// The first `tokens_max` tokens of a text, which may contain control tokens: it is the user's own. A new sequence
// begins at each first-token (BOS) in it, and where one would be longer than `sequence_tokens_max`. One that the model
// wants before a text is put there if it is missing.
TokenSequences CutText(const Tokenizer& tokenizer, std::string_view text, int tokens_max, int sequence_tokens_max);

// As many random ids, each below `vocab_size`, for files without a tokenizer: the same for the same arguments.
TokenSequences RandomSequences(int vocab_size, int tokens, int sequence_tokens_max);

}  // namespace braid
