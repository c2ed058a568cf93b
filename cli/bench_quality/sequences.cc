#include "cli/bench_quality/sequences.h"

#include "base/rng.h"

namespace braid {

TokenSequences CutText(const Tokenizer& tokenizer, std::string_view text, int tokens_max, int sequence_tokens_max) {
  std::vector<TokenId> tokens = tokenizer.Encode(text, Tokenizer::Specials::kParse);
  const std::optional<TokenId> bos = tokenizer.bos();
  if (tokens.empty()) return {};
  if (tokenizer.add_bos() && bos && tokens.front() != *bos) tokens.insert(tokens.begin(), *bos);
  if (tokens.size() > static_cast<size_t>(tokens_max)) tokens.resize(static_cast<size_t>(tokens_max));
  TokenSequences sequences;
  for (const TokenId token : tokens) {
    if (sequences.empty() || token == bos || sequences.back().size() == static_cast<size_t>(sequence_tokens_max))
      sequences.emplace_back();
    sequences.back().push_back(token);
  }
  return sequences;
}

TokenSequences RandomSequences(int vocab_size, int tokens, int sequence_tokens_max) {
  TokenSequences sequences;
  for (int i = 0; i < tokens; ++i) {
    if (i % sequence_tokens_max == 0) sequences.emplace_back();
    sequences.back().push_back(static_cast<TokenId>(UniformAt(0, 0, static_cast<uint64_t>(i)) * vocab_size));
  }
  return sequences;
}

}  // namespace braid
