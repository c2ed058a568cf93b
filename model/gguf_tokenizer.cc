#include "model/gguf_tokenizer.h"

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace braid {
namespace {

constexpr uint64_t kTokensMax = 1 << 22;
constexpr uint64_t kMergesMax = 1 << 23;

// What llama.cpp derives from the name of a pre-tokenizer.
struct PreTokenizerName {
  std::string_view name;
  TokenizerSpec::PreTokenizer kind;
  bool ignore_merges;
  bool add_bos;  // unless the file says otherwise
};
constexpr std::array<PreTokenizerName, 8> kPreTokenizers = {{
    {"gpt-2", TokenizerSpec::PreTokenizer::kGpt2, false, false},
    {"gpt2", TokenizerSpec::PreTokenizer::kGpt2, false, false},
    {"llama-bpe", TokenizerSpec::PreTokenizer::kLlama3, true, true},
    {"llama3", TokenizerSpec::PreTokenizer::kLlama3, true, true},
    {"llama-v3", TokenizerSpec::PreTokenizer::kLlama3, true, true},
    {"smaug-bpe", TokenizerSpec::PreTokenizer::kLlama3, false, false},
    {"qwen2", TokenizerSpec::PreTokenizer::kQwen2, false, false},
    {"lfm2", TokenizerSpec::PreTokenizer::kLfm2, true, true},
}};

absl::Status ReadPreTokenizer(const GgufFile& file, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const std::optional<std::string_view> model, file.String("tokenizer.ggml.model"));
  if (!model) return InvalidArgument("key 'tokenizer.ggml.model' is missing: the file has no tokenizer");
  if (*model != "gpt2")
    return InvalidArgument("key 'tokenizer.ggml.model' is '" + std::string(*model) + "', only gpt2 is supported");
  ASSIGN_OR_RETURN(const std::optional<std::string_view> name, file.String("tokenizer.ggml.pre"));
  if (!name) return InvalidArgument("key 'tokenizer.ggml.pre' is missing: which pre-tokenizer is not known");
  for (const PreTokenizerName& known : kPreTokenizers) {
    if (known.name != *name) continue;
    spec->pre_tokenizer = known.kind;
    spec->ignore_merges = known.ignore_merges;
    ASSIGN_OR_RETURN(const std::optional<bool> add_bos, file.Bool("tokenizer.ggml.add_bos_token"));
    spec->add_bos = add_bos.value_or(known.add_bos);
    ASSIGN_OR_RETURN(const std::optional<bool> prefix, file.Bool("tokenizer.ggml.add_space_prefix"));
    spec->add_prefix_space = prefix.value_or(false);
    return absl::OkStatus();
  }
  return InvalidArgument("key 'tokenizer.ggml.pre' is '" + std::string(*name) +
                         "'; gpt-2, llama-bpe, qwen2 and lfm2 are supported");
}

absl::Status ReadTokens(const GgufFile& file, int vocab_size, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const auto tokens, file.Strings("tokenizer.ggml.tokens", kTokensMax));
  if (!tokens) return InvalidArgument("key 'tokenizer.ggml.tokens' is missing");
  if (tokens->size() > static_cast<size_t>(vocab_size))
    return InvalidArgument("key 'tokenizer.ggml.tokens' has " + std::to_string(tokens->size()) +
                           " tokens, the embedding only " + std::to_string(vocab_size) + " rows");
  ASSIGN_OR_RETURN(const auto types, file.Integers("tokenizer.ggml.token_type", kTokensMax));
  if (types && types->size() != tokens->size())
    return InvalidArgument("key 'tokenizer.ggml.token_type' has " + std::to_string(types->size()) + " entries for " +
                           std::to_string(tokens->size()) + " tokens");
  for (size_t i = 0; i < tokens->size(); ++i) {
    const auto type = static_cast<GgufTokenType>(types ? (*types)[i] : int64_t{1});
    const std::string text((*tokens)[i]);
    spec->tokens.push_back(type == GgufTokenType::kUnused ? std::string() : text);
    const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
    if (special || type == GgufTokenType::kUserDefined)
      spec->added.push_back({.id = static_cast<TokenId>(i), .text = text, .special = special});
  }
  while (!spec->tokens.empty() && spec->tokens.back().empty()) spec->tokens.pop_back();  // rows beyond the last token
  return absl::OkStatus();
}

absl::Status ReadMerges(const GgufFile& file, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const auto merges, file.Strings("tokenizer.ggml.merges", kMergesMax));
  if (!merges) return InvalidArgument("key 'tokenizer.ggml.merges' is missing");
  spec->merges.reserve(merges->size());
  for (const std::string_view merge : *merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size())
      return InvalidArgument("key 'tokenizer.ggml.merges': '" + std::string(merge) + "' is not two tokens");
    spec->merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TokenId>> ReadId(const GgufFile& file, const char* key, const TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> id, file.Integer(key, 0, static_cast<int64_t>(spec.tokens.size()) - 1));
  if (!id) return std::nullopt;
  return std::optional<TokenId>(static_cast<TokenId>(*id));
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file, int vocab_size) {
  TokenizerSpec spec;
  RETURN_IF_ERROR(ReadPreTokenizer(file, &spec));
  RETURN_IF_ERROR(ReadTokens(file, vocab_size, &spec));
  RETURN_IF_ERROR(ReadMerges(file, &spec));
  ASSIGN_OR_RETURN(spec.bos, ReadId(file, "tokenizer.ggml.bos_token_id", spec));
  ASSIGN_OR_RETURN(spec.eos, ReadId(file, "tokenizer.ggml.eos_token_id", spec));
  ASSIGN_OR_RETURN(spec.pad, ReadId(file, "tokenizer.ggml.padding_token_id", spec));
  return spec;
}

}  // namespace braid
