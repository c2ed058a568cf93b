#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "model/tokenizer_spec.h"
#include "model/utf8.h"

namespace braid {

// Byte-level BPE, equal to Hugging Face's `tokenizers` id for id. Immutable and thread-safe.
class Tokenizer {
 public:
  // kInvalidArgument if the spec contradicts itself (a merge of unknown tokens, duplicate or missing byte tokens).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);
  ~Tokenizer();

  // How text becomes ids. Added tokens that are not special are always recognised; special (control) tokens only with
  // kParse, which is for template text and for trusted callers: a user's text is encoded with kPlain.
  enum class Specials { kPlain, kParse };
  // Appends nothing of its own: no BOS, no EOS. `text` should be UTF-8; other bytes are encoded byte by byte.
  // Time is close to linear in the text (1 MB of one letter takes well under a second).
  std::vector<TokenId> Encode(std::string_view text, Specials specials) const;

  // The bytes a token stands for; a special token gives its text. Empty for ids without a token.
  std::string_view Bytes(TokenId id) const;
  bool IsSpecial(TokenId id) const;
  // The id of a special or added token by its text.
  std::optional<TokenId> Find(std::string_view text) const;
  // All bytes, specials included if asked; the result need not be UTF-8.
  std::string Decode(std::span<const TokenId> ids, bool keep_specials) const;

  int vocab_size() const;  // ids are in [0, vocab_size)
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool add_bos() const;
  // Ids that end an answer: eos, and <|im_end|> and <|endoftext|> where they exist.
  const std::vector<TokenId>& stop_tokens() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace braid
