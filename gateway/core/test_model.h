#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gateway/core/served_model.h"

namespace braid {

// A model for tests whose tokens are bytes: token b is byte b, and the control tokens follow from 256 on. Context
// `context_tokens_max`, name "test-model", digest "test-digest", chat template of LFM2.5 with two stop tokens.
ServedModel MakeTestModel(int context_tokens_max = 4096);

inline constexpr TokenId kBos = 256, kImStart = 257, kImEnd = 258, kEndOfText = 259, kThink = 260, kEndThink = 261,
                         kToolCallStart = 262, kToolCallEnd = 263;
inline constexpr int kTestVocabSize = 264;

// The tokens of a text, byte by byte.
std::vector<TokenId> ByteTokens(std::string_view text);
// The tokens of an answer: control tokens are recognised by their text.
std::vector<TokenId> AnswerTokens(const ServedModel& model, std::string_view text);

}  // namespace braid
