#include "cli/bench_serve/prompt.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/rng.h"

namespace braid {
namespace {

// Short, common words: with a space before it each is one token in the vocabularies of most models.
constexpr std::array<const char*, 64> kWords = {
    "the",  "of",   "and",   "to",   "in",   "is",   "that", "for",  "it",    "as",    "was",   "with",  "be",
    "by",   "on",   "not",   "he",   "his",  "but",  "at",   "are",  "this",  "have",  "from",  "or",    "had",
    "an",   "they", "which", "one",  "you",  "were", "all",  "her",  "she",   "there", "would", "their", "we",
    "him",  "been", "has",   "when", "who",  "will", "no",   "more", "if",    "out",   "so",    "up",    "said",
    "what", "its",  "about", "than", "into", "them", "can",  "only", "other", "time",  "new",   "some"};

// Draws of one prompt, four at a time.
class Draws {
 public:
  Draws(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  // Uniform in [0, range), but for a bias of range / 2^32.
  uint32_t Below(uint32_t range) {
    if (position_ % 4 == 0) Refill();
    return static_cast<uint32_t>(uint64_t{words_[position_++ % 4]} * range >> 32);
  }

 private:
  void Refill() {
    constexpr uint32_t kPrompts = 0x9403;  // keeps these draws apart from the arrivals
    words_ = Philox4x32({static_cast<uint32_t>(position_ / 4), static_cast<uint32_t>(stream_),
                         static_cast<uint32_t>(stream_ >> 32), kPrompts},
                        {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
  }

  const uint64_t seed_, stream_;
  uint64_t position_ = 0;
  std::array<uint32_t, 4> words_ = {};
};

constexpr uint64_t kPrefixStream = UINT64_MAX;  // of all requests; no request has this number

void AppendIds(const PromptOptions& options, uint64_t stream, int count, std::string* out) {
  Draws draws(options.seed, stream);
  for (int i = 0; i < count; ++i) {
    char digits[16];
    const auto id = options.token_min + draws.Below(static_cast<uint32_t>(options.token_max - options.token_min));
    if (out->size() > 1) *out += ',';
    out->append(digits, std::to_chars(digits, digits + sizeof(digits), id).ptr);
  }
}

void AppendWords(const PromptOptions& options, uint64_t stream, int64_t count, std::string* out) {
  Draws draws(options.seed, stream);
  for (int64_t i = 0; i < count; ++i) {
    if (out->size() > 1) *out += ' ';
    *out += kWords[draws.Below(kWords.size())];
  }
}

}  // namespace

std::string PromptJson(const PromptOptions& options, uint64_t request, int tokens) {
  const int prefix = std::min(options.prefix_tokens, tokens);
  const int rest = tokens - prefix;
  if (options.kind == PromptKind::kTokenIds) {
    std::string ids = "[";
    AppendIds(options, kPrefixStream, prefix, &ids);
    AppendIds(options, request, rest, &ids);
    return ids + "]";
  }
  const auto words = [&options](int count) { return std::llround(count * options.words_per_token); };
  std::string text = "\"";
  AppendWords(options, kPrefixStream, words(prefix), &text);
  AppendWords(options, request, std::max<int64_t>(words(rest), prefix == 0 ? 1 : 0), &text);
  return text + "\"";
}

std::string RequestBody(const BodyOptions& options, const std::string& prompt_json, int output_tokens, uint64_t seed) {
  const ServerDialect& dialect = options.dialect;
  nlohmann::json body = {{"max_tokens", output_tokens}, {"stream", true}, {"seed", seed}};
  if (!options.model.empty()) body["model"] = options.model;
  if (dialect.ignore_eos) body["ignore_eos"] = true;
  if (dialect.include_usage) body["stream_options"] = {{"include_usage", true}};
  if (dialect.return_token_ids) body["return_token_ids"] = true;
  if (options.temperature >= 0) body["temperature"] = options.temperature;
  std::string text = body.dump();
  text.pop_back();  // the prompt, by far the longest member, is JSON already
  return text + ",\"prompt\":" + prompt_json + "}";
}

}  // namespace braid
