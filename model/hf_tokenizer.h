#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/hf_config.h"
#include "model/tokenizer_spec.h"

namespace braid {

// A Hugging Face tokenizer.json, byte-level BPE. What we cannot follow to the letter (a normalizer, an unknown
// pre-tokenizer, dropout) is kInvalidArgument that says so, as is an id not below `vocab_size`. `tokenizer_config` is
// the tokenizer_config.json or an empty object; `ids` are those of config.json, used where it names no special token.
absl::StatusOr<TokenizerSpec> ReadHfTokenizer(const nlohmann::json& tokenizer, const nlohmann::json& tokenizer_config,
                                              const HfSpecialIds& ids, int vocab_size);

// The regex of a Split for this kind, in its best-known spelling.
std::string_view HfRegex(TokenizerSpec::PreTokenizer kind);

}  // namespace braid
