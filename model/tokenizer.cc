#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/byte_spelling.h"
#include "model/pretokenizer.h"
#include "model/word_cache.h"
#include "model/word_key.h"
#include "model/word_table.h"

namespace braid {
namespace {

// Far above any real vocabulary (the largest have some 260,000 entries); keeps sums of ids and sizes small.
constexpr size_t kVocabSizeMax = 1 << 22;
// A step of the added-token search is as long as the longest token; real ones have some 30 bytes.
constexpr size_t kAddedTokenBytesMax = 1024;

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return absl::Hash<absl::string_view>()(AbslView(text)); }
};
template <typename Key>
using IdByText = absl::flat_hash_map<Key, TokenId, TextHash, std::equal_to<>>;
using IdBySpelling = IdByText<std::string_view>;

// Files are hostile: what an error quotes of them is kept short and valid.
std::string Quote(std::string_view text) { return absl::StrCat("\"", ToValidUtf8(text.substr(0, 40)), "\""); }

absl::Status CheckAdded(const TokenizerSpec& spec) {
  absl::flat_hash_set<TokenId> ids;
  absl::flat_hash_set<std::string_view, TextHash> texts;
  for (const auto& token : spec.added) {
    if (token.id < 0 || static_cast<size_t>(token.id) >= kVocabSizeMax) {
      return InvalidArgument(absl::StrCat("added token ", Quote(token.text), " has the id ", token.id, ", outside [0, ",
                                          kVocabSizeMax, ")"));
    }
    if (token.text.empty() || token.text.size() > kAddedTokenBytesMax) {
      return InvalidArgument(absl::StrCat("added token ", token.id, " has ", token.text.size(), " bytes; 1 to ",
                                          kAddedTokenBytesMax, " are allowed"));
    }
    if (!ids.insert(token.id).second) return InvalidArgument(absl::StrCat("added token ", token.id, " is there twice"));
    if (!texts.insert(token.text).second) {
      return InvalidArgument(absl::StrCat("added token ", Quote(token.text), " has two ids"));
    }
  }
  return absl::OkStatus();
}

enum class Kind : uint8_t { kOrdinary, kAdded, kSpecial };

absl::StatusOr<std::vector<Kind>> KindsById(const TokenizerSpec& spec) {
  RETURN_IF_ERROR(CheckAdded(spec));
  size_t size = spec.tokens.size();
  for (const auto& token : spec.added) size = std::max(size, static_cast<size_t>(token.id) + 1);
  if (size > kVocabSizeMax) {
    return InvalidArgument(absl::StrCat("a vocabulary of ", size, " tokens; at most ", kVocabSizeMax, " are allowed"));
  }
  for (const auto& [name, id] : {std::pair("bos", spec.bos), std::pair("eos", spec.eos), std::pair("pad", spec.pad)}) {
    if (id && (*id < 0 || static_cast<size_t>(*id) >= size)) {
      return InvalidArgument(absl::StrCat("the ", name, " token has the id ", *id, ", outside [0, ", size, ")"));
    }
  }
  std::vector<Kind> kinds(size, Kind::kOrdinary);
  for (const auto& token : spec.added) kinds[token.id] = token.special ? Kind::kSpecial : Kind::kAdded;
  return kinds;
}

// The tokens BPE can reach: all but the special ones, for no text of a user's may become a control token.
absl::StatusOr<IdBySpelling> IndexSpellings(const TokenizerSpec& spec, const std::vector<Kind>& kinds) {
  IdBySpelling ids;
  ids.reserve(spec.tokens.size());
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (spec.tokens[id].empty() || kinds[id] == Kind::kSpecial) continue;
    auto [entry, is_new] = ids.try_emplace(spec.tokens[id], static_cast<TokenId>(id));
    if (!is_new && kinds[id] == Kind::kOrdinary) {
      return InvalidArgument(absl::StrCat("tokens ", entry->second, " and ", id, " are both ", Quote(spec.tokens[id])));
    }
  }
  return ids;
}

absl::StatusOr<std::vector<Bpe::Merge>> MakeMerges(const TokenizerSpec& spec, const IdBySpelling& ids) {
  std::vector<Bpe::Merge> merges;
  merges.reserve(spec.merges.size());
  const auto id_of = [&](std::string_view spelled) {
    auto entry = ids.find(spelled);
    return entry == ids.end() ? TokenId{-1} : entry->second;
  };
  std::string joined;
  for (const auto& [left, right] : spec.merges) {
    joined.assign(left).append(right);
    const Bpe::Merge merge = {id_of(left), id_of(right), id_of(joined)};
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
      return InvalidArgument(absl::StrCat("merge ", merges.size(), " of ", Quote(left), " and ", Quote(right),
                                          " names a token that is not in the vocabulary"));
    }
    merges.push_back(merge);
  }
  return merges;
}

absl::StatusOr<std::array<TokenId, 256>> FindByteTokens(const IdBySpelling& ids) {
  std::array<TokenId, 256> bytes;
  for (int byte = 0; byte < 256; ++byte) {
    auto entry = ids.find(SpellBytes(std::string(1, static_cast<char>(byte))));
    if (entry == ids.end())
      return InvalidArgument(absl::StrFormat("the vocabulary has no token for byte 0x%02X", byte));
    bytes[byte] = entry->second;
  }
  return bytes;
}

std::vector<TokenizerSpec::AddedToken> Select(const TokenizerSpec& spec, bool normalized) {
  std::vector<TokenizerSpec::AddedToken> selected;
  for (const auto& token : spec.added) {
    if (token.normalized == normalized) selected.push_back(token);
  }
  return selected;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(const TokenizerSpec& spec, const std::array<TokenId, 256>& byte_ids, std::vector<Bpe::Merge> merges)
      : bpe(byte_ids, std::move(merges)),
        words(spec.tokens.size()),
        first_matcher(Select(spec, /*normalized=*/false)),
        second_matcher(Select(spec, /*normalized=*/true)),
        pre_tokenizer(spec.pre_tokenizer),
        add_prefix_space(spec.add_prefix_space),
        add_bos(spec.add_bos),
        bos(spec.bos),
        eos(spec.eos) {}

  struct Word {
    std::string_view text;
    WordKey key;  // of size 0 if the word is longer than keys are
    uint64_t hash = 0;
  };
  // What one Encode has of its own.
  struct Work {
    explicit Work(size_t text_bytes) : cache(text_bytes) { ids.reserve(text_bytes / 4); }  // about what it will take
    std::vector<TokenId> ids;
    Bpe::Scratch bpe;
    WordCache cache;
    // Words are looked up some time after the table's memory was asked for: it is larger than the near caches.
    std::array<Word, 32> batch;
  };

  void TakeTokens(TokenizerSpec& spec, const std::vector<Kind>& kinds);
  // Whether a word that is this token comes out of the merges as it: most do, and need not be merged to know.
  bool MergesToItself(TokenId id) const;
  void CollectStopTokens();
  // Text between tokens of the first matcher, then between those of the second.
  void EncodeBetween(std::string_view text, bool parse_specials, Work* work) const;
  void EncodeText(std::string_view text, Work* work) const;
  void TakeWord(std::string_view text, size_t at, size_t end, Word* word) const;
  void EncodeWord(const Word& word, Work* work) const;
  void EncodeLongWord(std::string_view word, Work* work) const;

  Bpe bpe;
  WordTable words;  // pointing into `bytes`
  // `tokenizers` looks for tokens marked "normalized" in what the others left over.
  AddedTokenMatcher first_matcher, second_matcher;
  TokenizerSpec::PreTokenizer pre_tokenizer;
  bool add_prefix_space, add_bos;
  std::optional<TokenId> bos, eos;
  std::vector<TokenId> stop_tokens;
  std::vector<std::string> bytes;  // by id
  std::vector<bool> special;       // by id
  IdByText<std::string> added;
};

void Tokenizer::Impl::TakeTokens(TokenizerSpec& spec, const std::vector<Kind>& kinds) {
  bytes.resize(kinds.size());
  special.resize(kinds.size());
  for (auto& token : spec.added) {
    bytes[token.id] = token.text;
    special[token.id] = token.special;
    added.emplace(std::move(token.text), token.id);
  }
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (kinds[id] != Kind::kOrdinary || spec.tokens[id].empty()) continue;
    std::optional<std::string> spelled = BytesOfSpelling(spec.tokens[id]);
    bytes[id] = spelled ? *spelled : spec.tokens[id];  // a token that is no spelling stands for its own text
    if (spelled && (spec.ignore_merges || MergesToItself(static_cast<TokenId>(id)))) {
      words.Insert(bytes[id], static_cast<TokenId>(id));
    }
  }
}

bool Tokenizer::Impl::MergesToItself(TokenId id) const {
  Bpe::Scratch scratch;
  std::vector<TokenId> ids;
  bpe.Encode(bytes[id], &scratch, &ids);
  return ids.size() == 1 && ids[0] == id;
}

void Tokenizer::Impl::CollectStopTokens() {
  std::vector<TokenId> found;
  if (eos) found.push_back(*eos);
  for (std::string_view text : {"<|im_end|>", "<|endoftext|>"}) {
    if (auto entry = added.find(text); entry != added.end()) found.push_back(entry->second);
  }
  for (TokenId id : found) {
    if (std::find(stop_tokens.begin(), stop_tokens.end(), id) == stop_tokens.end()) stop_tokens.push_back(id);
  }
}

void Tokenizer::Impl::EncodeWord(const Word& word, Work* work) const {
  if (word.key.size == 0) return EncodeLongWord(word.text, work);
  if (const TokenId id = words.Find(word.key, word.hash); id >= 0) {
    work->ids.push_back(id);
    return;
  }
  if (const auto known = work->cache.Find(word.key, word.hash); !known.empty()) {
    work->ids.insert(work->ids.end(), known.begin(), known.end());
    return;
  }
  const size_t before = work->ids.size();
  bpe.Encode(word.text, &work->bpe, &work->ids);
  work->cache.Put(word.key, word.hash, std::span(work->ids).subspan(before));
}

void Tokenizer::Impl::EncodeLongWord(std::string_view word, Work* work) const {
  if (const TokenId id = words.FindLong(word); id >= 0) {
    work->ids.push_back(id);
  } else {
    bpe.Encode(word, &work->bpe, &work->ids);
  }
}

void Tokenizer::Impl::TakeWord(std::string_view text, size_t at, size_t end, Word* word) const {
  word->text = text.substr(at, end - at);
  word->key.size = 0;
  if (end - at > WordKey::kBytesMax) return;
  word->key = WordKey::Of(text, at, end - at);
  word->hash = words.HashOf(word->key);
  words.Prefetch(word->hash);
}

void Tokenizer::Impl::EncodeBetween(std::string_view text, bool parse_specials, Work* work) const {
  AddedTokenMatcher::Cursor cursor(second_matcher, text, parse_specials);
  while (cursor.Next()) {
    EncodeText(cursor.before(), work);
    work->ids.push_back(cursor.id());
  }
  EncodeText(cursor.before(), work);
}

void Tokenizer::Impl::EncodeText(std::string_view text, Work* work) const {
  if (text.empty()) return;
  std::string prefixed;
  if (add_prefix_space && !text.starts_with(' ')) text = prefixed.assign(" ").append(text);
  for (size_t at = 0; at < text.size();) {
    size_t count = 0;
    for (; at < text.size() && count < work->batch.size(); ++count) {
      const size_t end = PreTokenEnd(pre_tokenizer, text, at);
      TakeWord(text, at, end, &work->batch[count]);
      at = end;
    }
    for (size_t i = 0; i < count; ++i) EncodeWord(work->batch[i], work);
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  ASSIGN_OR_RETURN(const std::vector<Kind> kinds, KindsById(spec));
  ASSIGN_OR_RETURN(const IdBySpelling ids, IndexSpellings(spec, kinds));
  ASSIGN_OR_RETURN(const auto byte_ids, FindByteTokens(ids));
  ASSIGN_OR_RETURN(std::vector<Bpe::Merge> merges, MakeMerges(spec, ids));
  auto impl = std::make_unique<Impl>(spec, byte_ids, std::move(merges));
  impl->TakeTokens(spec, kinds);
  impl->CollectStopTokens();
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::vector<TokenId> Tokenizer::Encode(std::string_view text, Specials specials) const {
  Impl::Work work(text.size());
  const bool parse = specials == Specials::kParse;
  AddedTokenMatcher::Cursor cursor(impl_->first_matcher, text, parse);
  while (cursor.Next()) {
    impl_->EncodeBetween(cursor.before(), parse, &work);
    work.ids.push_back(cursor.id());
  }
  impl_->EncodeBetween(cursor.before(), parse, &work);
  return std::move(work.ids);
}

std::string_view Tokenizer::Bytes(TokenId id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(impl_->bytes[id]) : std::string_view();
}

bool Tokenizer::IsSpecial(TokenId id) const { return id >= 0 && id < vocab_size() && impl_->special[id]; }

std::optional<TokenId> Tokenizer::Find(std::string_view text) const {
  auto entry = impl_->added.find(text);
  return entry == impl_->added.end() ? std::nullopt : std::optional(entry->second);
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool keep_specials) const {
  std::string bytes;
  for (TokenId id : ids) {
    if (keep_specials || !IsSpecial(id)) bytes += Bytes(id);
  }
  return bytes;
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->bytes.size()); }
std::optional<TokenId> Tokenizer::bos() const { return impl_->bos; }
std::optional<TokenId> Tokenizer::eos() const { return impl_->eos; }
bool Tokenizer::add_bos() const { return impl_->add_bos; }
const std::vector<TokenId>& Tokenizer::stop_tokens() const { return impl_->stop_tokens; }

}  // namespace braid
