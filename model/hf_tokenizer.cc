#include "model/hf_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/json_reader.h"

namespace braid {
namespace {

using nlohmann::json;
using PreTokenizer = TokenizerSpec::PreTokenizer;

// The spellings found in published tokenizers. Where two map to one kind they match the same text: a greedy \s* before
// [\r\n] takes a run of newlines as [\r\n]+ does, and possessive quantifiers only forbid what never happens here.
struct KnownRegex {
  std::string_view regex;
  PreTokenizer kind;
};
constexpr std::array<KnownRegex, 8> kKnownRegexes = {{
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", PreTokenizer::kGpt2},
    {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", PreTokenizer::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+)"
     R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     PreTokenizer::kLlama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+)"
     R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     PreTokenizer::kQwen2},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s)",
     PreTokenizer::kLfm2},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     PreTokenizer::kLfm2},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     PreTokenizer::kLfm2},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     PreTokenizer::kLfm2},
}};

absl::StatusOr<std::string> TypeOf(const json& part, const char* what) {
  if (!part.is_object()) return InvalidArgument(std::string(what) + " is not an object");
  ASSIGN_OR_RETURN(std::optional<std::string> type, JsonString(part, "type"));
  if (!type) return InvalidArgument(std::string(what) + " has no type");
  return *std::move(type);
}

absl::Status ReadSplit(const json& split, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const json* pattern, JsonObject(split, "pattern"));
  if (pattern == nullptr) return InvalidArgument("pre_tokenizer: Split has no pattern");
  ASSIGN_OR_RETURN(const std::optional<std::string> regex, JsonString(*pattern, "Regex"));
  ASSIGN_OR_RETURN(const std::optional<std::string> behavior, JsonString(split, "behavior"));
  ASSIGN_OR_RETURN(const std::optional<bool> invert, JsonBool(split, "invert"));
  // The patterns match all text, so that keeping the matches and cutting around them are the same.
  const std::string_view wanted = invert.value_or(false) ? "Removed" : "Isolated";
  if (behavior.value_or("") != wanted)
    return InvalidArgument("pre_tokenizer: Split has the behavior '" + behavior.value_or("") + "', expected " +
                           std::string(wanted));
  for (const KnownRegex& known : kKnownRegexes) {
    if (known.regex != regex.value_or("")) continue;
    spec->pre_tokenizer = known.kind;
    return absl::OkStatus();
  }
  return InvalidArgument("pre_tokenizer: the regex is none of GPT-2's, Llama 3's, Qwen2's, LFM2's: " +
                         regex.value_or("(none)").substr(0, 300));
}

// ByteLevel brings GPT-2's regex of its own unless told not to.
absl::Status ReadByteLevel(const json& part, bool* own_regex, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const std::optional<bool> prefix, JsonBool(part, "add_prefix_space"));
  ASSIGN_OR_RETURN(const std::optional<bool> use_regex, JsonBool(part, "use_regex"));
  spec->add_prefix_space = prefix.value_or(true);
  *own_regex = use_regex.value_or(true);
  if (*own_regex) spec->pre_tokenizer = PreTokenizer::kGpt2;
  return absl::OkStatus();
}

// Either ByteLevel alone, with its regex, or Split then ByteLevel without.
absl::Status ReadPreTokenizer(const json& tokenizer, TokenizerSpec* spec) {
  const json* part = JsonMember(tokenizer, "pre_tokenizer");
  if (part == nullptr) return InvalidArgument("pre_tokenizer is missing");
  ASSIGN_OR_RETURN(const std::string type, TypeOf(*part, "pre_tokenizer"));
  bool own_regex = false;
  if (type == "ByteLevel") {
    RETURN_IF_ERROR(ReadByteLevel(*part, &own_regex, spec));
    return own_regex ? absl::OkStatus() : InvalidArgument("pre_tokenizer: ByteLevel without a regex is not supported");
  }
  const json* steps = type == "Sequence" ? JsonMember(*part, "pretokenizers") : nullptr;
  if (steps == nullptr || !steps->is_array() || steps->size() != 2)
    return InvalidArgument("pre_tokenizer: '" + type +
                           "' is not supported, only ByteLevel or a sequence of Split and it");
  ASSIGN_OR_RETURN(const std::string first, TypeOf((*steps)[0], "pre_tokenizer"));
  ASSIGN_OR_RETURN(const std::string second, TypeOf((*steps)[1], "pre_tokenizer"));
  if (first != "Split" || second != "ByteLevel")
    return InvalidArgument("pre_tokenizer: a sequence of " + first + " and " + second + " is not supported");
  RETURN_IF_ERROR(ReadByteLevel((*steps)[1], &own_regex, spec));
  if (own_regex) return InvalidArgument("pre_tokenizer: ByteLevel with a second regex is not supported");
  return ReadSplit((*steps)[0], spec);
}

absl::StatusOr<TokenId> ReadId(const json& value, const std::string& token, int vocab_size) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(vocab_size))
    return InvalidArgument("the id of token '" + token + "' is not below the " + std::to_string(vocab_size) +
                           " rows of the embedding");
  return value.get<TokenId>();
}

absl::Status SetToken(TokenId id, const std::string& text, TokenizerSpec* spec) {
  const auto index = static_cast<size_t>(id);
  if (spec->tokens.size() <= index) spec->tokens.resize(index + 1);
  std::string& slot = spec->tokens[index];
  if (!slot.empty() && slot != text)
    return InvalidArgument("tokens '" + slot + "' and '" + text + "' have the same id " + std::to_string(id));
  slot = text;
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const json& model, int vocab_size, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const json* vocabulary, JsonObject(model, "vocab"));
  if (vocabulary == nullptr) return InvalidArgument("model: vocab is missing");
  for (const auto& [token, id_value] : vocabulary->items()) {
    ASSIGN_OR_RETURN(const TokenId id, ReadId(id_value, token, vocab_size));
    RETURN_IF_ERROR(SetToken(id, token, spec));
  }
  return absl::OkStatus();
}

// "a b" as written until 2024, ["a", "b"] since.
absl::StatusOr<std::pair<std::string, std::string>> ReadMerge(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  if (!merge.is_string()) return InvalidArgument("model: a merge is neither a string nor a pair");
  const std::string& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ', 1);
  if (space == std::string::npos || space + 1 == text.size())
    return InvalidArgument("model: the merge '" + text + "' is not two tokens");
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

absl::Status ReadMerges(const json& model, TokenizerSpec* spec) {
  const json* merges = JsonMember(model, "merges");
  if (merges == nullptr || !merges->is_array()) return InvalidArgument("model: merges is missing");
  spec->merges.reserve(merges->size());
  for (const json& merge : *merges) {
    ASSIGN_OR_RETURN(auto pair, ReadMerge(merge));
    spec->merges.push_back(std::move(pair));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& tokenizer, int vocab_size, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const json* model, JsonObject(tokenizer, "model"));
  if (model == nullptr) return InvalidArgument("model is missing");
  ASSIGN_OR_RETURN(const std::optional<std::string> type, JsonString(*model, "type"));
  if (type.value_or("BPE") != "BPE") return InvalidArgument("model: type '" + *type + "' is not supported, only BPE");
  ASSIGN_OR_RETURN(const std::optional<double> dropout, JsonNumber(*model, "dropout"));
  if (dropout.value_or(0) != 0) return InvalidArgument("model: dropout is not supported");
  ASSIGN_OR_RETURN(const std::optional<bool> fallback, JsonBool(*model, "byte_fallback"));
  if (fallback.value_or(false)) return InvalidArgument("model: byte_fallback is not supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> affix, JsonString(*model, key));
    if (!affix.value_or("").empty()) return InvalidArgument(std::string("model: ") + key + " is not supported");
  }
  ASSIGN_OR_RETURN(const std::optional<bool> ignore_merges, JsonBool(*model, "ignore_merges"));
  spec->ignore_merges = ignore_merges.value_or(false);
  RETURN_IF_ERROR(ReadVocabulary(*model, vocab_size, spec));
  return ReadMerges(*model, spec);
}

absl::StatusOr<TokenizerSpec::AddedToken> ReadAddedToken(const json& entry, int vocab_size) {
  if (!entry.is_object()) return InvalidArgument("added_tokens has an entry that is not an object");
  TokenizerSpec::AddedToken added;
  ASSIGN_OR_RETURN(std::optional<std::string> content, JsonString(entry, "content"));
  if (!content || content->empty()) return InvalidArgument("added_tokens has an entry without content");
  added.text = *std::move(content);
  const json* id = JsonMember(entry, "id");
  ASSIGN_OR_RETURN(added.id, ReadId(id != nullptr ? *id : json(), added.text, vocab_size));
  const std::pair<const char*, bool*> flags[] = {{"special", &added.special},
                                                 {"lstrip", &added.lstrip},
                                                 {"rstrip", &added.rstrip},
                                                 {"single_word", &added.single_word},
                                                 {"normalized", &added.normalized}};
  for (const auto& [key, flag] : flags) {
    ASSIGN_OR_RETURN(const std::optional<bool> value, JsonBool(entry, key));
    *flag = value.value_or(false);
  }
  return added;
}

absl::Status ReadAddedTokens(const json& tokenizer, int vocab_size, TokenizerSpec* spec) {
  const json* entries = JsonMember(tokenizer, "added_tokens");
  if (entries == nullptr) return absl::OkStatus();
  if (!entries->is_array()) return InvalidArgument("added_tokens is not a list");
  for (const json& entry : *entries) {
    ASSIGN_OR_RETURN(TokenizerSpec::AddedToken added, ReadAddedToken(entry, vocab_size));
    RETURN_IF_ERROR(SetToken(added.id, added.text, spec));
    spec->added.push_back(std::move(added));
  }
  std::sort(spec->added.begin(), spec->added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return absl::OkStatus();
}

std::optional<TokenId> FindAdded(const TokenizerSpec& spec, std::string_view text) {
  for (const TokenizerSpec::AddedToken& added : spec.added)
    if (added.text == text) return added.id;
  return std::nullopt;
}

// A special token by its text in tokenizer_config.json ("<s>" or {"content": "<s>"}), else by the id of config.json.
absl::StatusOr<std::optional<TokenId>> ReadSpecial(const json& tokenizer_config, const char* key,
                                                   std::optional<int64_t> id, const TokenizerSpec& spec) {
  const json* member = JsonMember(tokenizer_config, key);
  if (member != nullptr && member->is_object()) member = JsonMember(*member, "content");
  if (member != nullptr && member->is_string()) {
    const std::string& text = member->get_ref<const std::string&>();
    const std::optional<TokenId> found = FindAdded(spec, text);
    if (!found)
      return InvalidArgument("tokenizer_config.json: " + std::string(key) + " '" + text + "' is no added token");
    return found;
  }
  if (!id) return std::nullopt;
  if (*id >= static_cast<int64_t>(spec.tokens.size()))
    return InvalidArgument("config.json: the id " + std::to_string(*id) + " of " + key + " is no token");
  return std::optional<TokenId>(static_cast<TokenId>(*id));
}

// Whether a TemplateProcessing puts BOS before the text. Anything after the text would end a prompt: refused.
absl::StatusOr<bool> TemplateAddsBos(const json& processor, const TokenizerSpec& spec) {
  const json* single = JsonMember(processor, "single");
  if (single == nullptr || !single->is_array()) return InvalidArgument("post_processor: the template is not a list");
  bool before_text = true;
  bool adds_bos = false;
  for (const json& piece : *single) {
    if (!piece.is_object()) return InvalidArgument("post_processor: a piece of the template is not an object");
    if (piece.contains("Sequence")) {
      before_text = false;
      continue;
    }
    ASSIGN_OR_RETURN(const json* token, JsonObject(piece, "SpecialToken"));
    if (token == nullptr) return InvalidArgument("post_processor: a piece of the template is no token");
    ASSIGN_OR_RETURN(const std::optional<std::string> text, JsonString(*token, "id"));
    const std::optional<TokenId> id = FindAdded(spec, text.value_or(""));
    if (!before_text || adds_bos || !id || id != spec.bos)
      return InvalidArgument("post_processor: adds '" + text.value_or("") +
                             "'; only one BOS before the text is supported");
    adds_bos = true;
  }
  return adds_bos;
}

absl::StatusOr<bool> ReadAddBos(const json& tokenizer, const json& tokenizer_config, const TokenizerSpec& spec) {
  const json* processor = JsonMember(tokenizer, "post_processor");
  std::vector<const json*> parts;
  if (processor != nullptr) {
    ASSIGN_OR_RETURN(const std::string type, TypeOf(*processor, "post_processor"));
    const json* sequence = type == "Sequence" ? JsonMember(*processor, "processors") : nullptr;
    if (sequence != nullptr && sequence->is_array()) {
      for (const json& part : *sequence) parts.push_back(&part);
    } else {
      parts.push_back(processor);
    }
  }
  for (const json* part : parts) {
    ASSIGN_OR_RETURN(const std::string type, TypeOf(*part, "post_processor"));
    if (type == "TemplateProcessing") return TemplateAddsBos(*part, spec);
    if (type != "ByteLevel") return InvalidArgument("post_processor: '" + type + "' is not supported");
  }
  ASSIGN_OR_RETURN(const std::optional<bool> add_bos, JsonBool(tokenizer_config, "add_bos_token"));
  return add_bos.value_or(false);
}

}  // namespace

std::string_view HfRegex(PreTokenizer kind) {
  for (const KnownRegex& known : kKnownRegexes)
    if (known.kind == kind) return known.regex;
  return "";
}

absl::StatusOr<TokenizerSpec> ReadHfTokenizer(const json& tokenizer, const json& tokenizer_config,
                                              const HfSpecialIds& ids, int vocab_size) {
  if (!tokenizer.is_object() || !tokenizer_config.is_object()) return InvalidArgument("is not an object");
  if (const json* normalizer = JsonMember(tokenizer, "normalizer")) {
    const bool empty =
        normalizer->is_object() && normalizer->contains("normalizers") && (*normalizer)["normalizers"].empty();
    if (!empty) return InvalidArgument("a normalizer is not supported");
  }
  TokenizerSpec spec;
  RETURN_IF_ERROR(ReadPreTokenizer(tokenizer, &spec));
  RETURN_IF_ERROR(ReadModel(tokenizer, vocab_size, &spec));
  RETURN_IF_ERROR(ReadAddedTokens(tokenizer, vocab_size, &spec));
  ASSIGN_OR_RETURN(spec.bos, ReadSpecial(tokenizer_config, "bos_token", ids.bos, spec));
  ASSIGN_OR_RETURN(spec.eos, ReadSpecial(tokenizer_config, "eos_token", ids.eos, spec));
  ASSIGN_OR_RETURN(spec.pad, ReadSpecial(tokenizer_config, "pad_token", ids.pad, spec));
  ASSIGN_OR_RETURN(spec.add_bos, ReadAddBos(tokenizer, tokenizer_config, spec));
  return spec;
}

}  // namespace braid
