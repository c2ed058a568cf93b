#pragma once

#include "absl/status/statusor.h"
#include "model/gguf_file.h"
#include "model/tokenizer_spec.h"

namespace braid {

// The tokenizer in a GGUF's metadata; byte-level BPE ("gpt2") only. kInvalidArgument naming the key, also if an id is
// not below `vocab_size`, the rows of the embedding.
absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file, int vocab_size);

}  // namespace braid
