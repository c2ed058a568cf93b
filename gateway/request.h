#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"

// Requests as the doors understood them, before validation: types are right, values may be anything. A door fills these
// from JSON or protobuf; everything else (ranges, defaults, tokens) happens once, behind both.

namespace braid {

struct GenerationParams {  // unset: the model's recommended value
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, seed, max_tokens, n;
  std::vector<std::pair<int64_t, double>> logit_bias;  // (token id, bias)
  std::vector<std::string> stop;
  bool logprobs = false;
  int64_t top_logprobs = 0;
  bool ignore_eos = false;
  std::string user, cache_salt;  // see SharePrefixes
};

struct MessageCall {
  std::string id, name;
  std::string arguments;  // JSON text
};

struct Message {
  std::string role;
  std::string content;
  std::optional<std::string> reasoning;
  std::vector<MessageCall> tool_calls;
  std::string tool_call_id;
};

struct ChatRequest {
  std::string model;
  std::vector<Message> messages;
  std::vector<nlohmann::ordered_json> tools;  // each an object {"type": "function", "function": {...}}
  std::string tool_choice;                    // "", "auto" or "none"; anything else is refused by the validator
  GenerationParams params;
};

using Prompt = std::variant<std::string, std::vector<int64_t>>;  // text, or token ids not yet range-checked

struct CompletionRequest {
  std::string model;
  std::vector<Prompt> prompts;
  bool echo = false;
  GenerationParams params;
};

}  // namespace braid
