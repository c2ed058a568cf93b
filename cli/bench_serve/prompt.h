#pragma once

#include <cstdint>
#include <string>

// The requests' bodies. Pure: prompt and length follow from seed, request and options.

namespace braid {

enum class PromptKind { kTokenIds, kText };

// What the server understands beyond OpenAI's /v1/completions; found by asking it.
struct ServerDialect {
  PromptKind prompt = PromptKind::kTokenIds;
  bool ignore_eos = true;        // answers have the length that was asked for
  bool include_usage = true;     // stream_options: the last chunk counts the tokens
  bool return_token_ids = true;  // every token has a chunk, also one that is no whole character yet
};

struct PromptOptions {
  PromptKind kind = PromptKind::kTokenIds;
  uint64_t seed = 0;
  int token_min = 0, token_max = 0;  // ids are drawn from [token_min, token_max)
  double words_per_token = 1;        // kText: words it takes to make one token, by the server's own count
  int prefix_tokens = 0;             // the first tokens, up to all of them, are the same in all prompts
};

// The prompt of `request` as a JSON value: an array of random token ids, or a string of common words.
std::string PromptJson(const PromptOptions& options, uint64_t request, int tokens);

struct BodyOptions {
  std::string model;  // empty: left out
  ServerDialect dialect;
  double temperature = -1;  // negative: left out, the server's default
};

// The body of one streamed completion. `prompt_json` as PromptJson() makes it.
std::string RequestBody(const BodyOptions& options, const std::string& prompt_json, int output_tokens, uint64_t seed);

}  // namespace braid
