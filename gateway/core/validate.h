#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "braid/v1/sampling.pb.h"
#include "gateway/api_error.h"
#include "gateway/core/cache_scope.h"
#include "gateway/core/served_model.h"
#include "gateway/request.h"

// The one validator behind both doors: what it lets through can be run as it stands, what it refuses is refused with
// the field's name. Nothing asked for is dropped or bent without a word; the few places where we are lenient are
// written down here:
//
// * The role "developer" means "system".
// * Results of several tool calls are put into the order of the calls they belong to (the templates render no ids).
// * A temperature below 1e-4 is greedy: a draw could not be told from the best token.
// * Text of callers never becomes control tokens; a prompt of token ids may hold any.
//
// Pure: no clock, no chance, no network. Thread-safe. Cost is linear in the request, and a prompt that cannot fit by
// its bytes alone is refused before it is tokenized.

namespace braid {

struct PreparedPrompt {
  std::vector<TokenId> tokens;
  std::string text;  // only with echo: what is repeated
  int max_new_tokens = 0;
};

struct PreparedCall {
  bool chat = false;
  bool parse_calls = false;  // chat with tools
  bool echo = false;
  bool want_logprobs = false;
  int top_logprobs = 0;
  int n = 1;
  std::vector<PreparedPrompt> prompts;
  braid::v1::SamplingParams sampling;  // resolved; `choice` is set per sequence
  std::vector<TokenId> stop_tokens;
  std::vector<std::string> stop;
  std::string cache_scope;  // of the router's prefix cache
  bool no_cache = false;
};

// What a call depends on besides itself and the model.
struct CallContext {
  int context_tokens_max = 0;  // of the model and what the cluster can hold
  uint64_t fresh_seed = 0;     // used if the call names none
  std::string date;            // YYYY-MM-DD, for templates that print it
  // Longest answer of a call that sets no max_tokens. Memory is reserved at admission, so "the rest of the context" for
  // everyone who did not think of it would let a long-context model serve one caller at a time. 0: no bound but that.
  int answer_tokens_default = 0;
  SharePrefixes share_prefixes = SharePrefixes::kUser;
  std::string api_key;  // that the caller has shown
};

// The most of everything a call may ask for. The numbers that callers see are in their messages.
inline constexpr int kChoicesMax = 16;
inline constexpr int kSequencesMax = 128;  // prompts x n
inline constexpr int kContextsMax = 16;    // all sequences together may need this many full contexts
inline constexpr int kToolsMax = 128;
inline constexpr int kCallsPerMessageMax = 128;
inline constexpr int kStopsMax = 16;
inline constexpr int kStopBytesMax = 1024;
inline constexpr int kLogitBiasMax = 1024;
inline constexpr int kTopLogprobsMax = 20;
// English has about 4 bytes per token, source code 3; only padding comes near 16.
inline constexpr int kBytesPerTokenMax = 16;

std::variant<ApiError, PreparedCall> PrepareChat(const ChatRequest& request, const ServedModel& model,
                                                 const CallContext& context);
std::variant<ApiError, PreparedCall> PrepareCompletion(const CompletionRequest& request, const ServedModel& model,
                                                       const CallContext& context);

// The same rules for the calls that only turn text into tokens and back.
std::variant<ApiError, std::vector<TokenId>> TokenizeText(const std::string& model_id, const std::string& text,
                                                          bool add_bos, const ServedModel& model);
std::variant<ApiError, std::vector<TokenId>> TokenizeMessages(const ChatRequest& request, const ServedModel& model,
                                                              const CallContext& context);
std::variant<ApiError, std::string> DetokenizeIds(const std::string& model_id, const std::vector<int64_t>& ids,
                                                  const ServedModel& model);

}  // namespace braid
