#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "gateway/api_error.h"
#include "gateway/request.h"

namespace braid {

// What happens to one call, in typed pieces. `choice` counts over prompts x n: prompt p's j-th answer is p * n + j.
struct Accepted {};  // every sequence of the call is admitted: a door may now commit to a 200
struct TokenScore {
  TokenId token = 0;
  std::string bytes;  // what the token stands for; may be a part of a UTF-8 character
  float logprob = 0;
  std::vector<TokenScore> top;
};
struct Delta {
  enum class Kind { kReasoning, kContent, kToolCall } kind = Kind::kContent;
  int choice = 0;
  std::string text;  // UTF-8, whole characters; for kToolCall a piece of the arguments' JSON
  int tool_index = 0;
  std::string tool_id, tool_name;    // with the first delta of a call
  std::vector<TokenId> tokens;       // that became known since the last delta of this choice
  std::vector<TokenScore> logprobs;  // one per entry of `tokens`, if asked for
};
struct EchoedPrompt {  // completions with echo, before the first delta of its choice
  int choice = 0;
  std::string text;
  std::vector<TokenScore> logprobs;  // if asked for; the first token's logprob is NaN (it has none)
};
struct Finished {
  enum class Reason { kStop, kLength, kToolCalls };
  int choice = 0;
  Reason reason = Reason::kStop;
};
const char* FinishReasonName(Finished::Reason reason);  // as OpenAI's API spells it
struct Done {                                           // the last event of a good call
  int64_t prompt_tokens = 0, completion_tokens = 0, reasoning_tokens = 0;
  int64_t cached_tokens = 0;  // of prompt_tokens, that need not be computed
  uint64_t seed = 0;
};
// ApiError as an event is the last one of a broken call. It may come after deltas: an answer is then truncated and the
// caller must be told.
using CallEvent = std::variant<Accepted, EchoedPrompt, Delta, Finished, Done, ApiError>;

// A running call. Destroying it cancels what is left; no event is delivered after that. It never waits for the network,
// but for a sink that is running on another thread: destroy it without holding a lock that the sink takes.
class Call {
 public:
  virtual ~Call() = default;
};

struct ModelInfo {
  std::string id, digest;
  int64_t created_unix_s = 0;
  int context_tokens_max = 0;
  bool has_chat_template = false;
  // Of the workers: what answers depend on besides model, request and seed; empty until known.
  std::string arithmetic, kv_type;
};

// The gateway behind its doors: validates, renders, tokenizes, sends sequences to the router, and folds the token log
// into deltas. Thread-safe.
class Inference {
 public:
  virtual ~Inference() = default;

  // Events come one at a time, on any thread, never from inside Start*; the sink must not block and may destroy the
  // Call it belongs to. Validation errors come back at once; admission errors (429, 503) come as the first event.
  using Sink = std::function<void(CallEvent)>;
  virtual std::variant<ApiError, std::unique_ptr<Call>> StartChat(ChatRequest request, const std::string& request_id,
                                                                  Sink sink) = 0;
  virtual std::variant<ApiError, std::unique_ptr<Call>> StartCompletion(CompletionRequest request,
                                                                        const std::string& request_id, Sink sink) = 0;

  // `add_bos`: before the text, if the model wants one.
  virtual std::variant<ApiError, std::vector<TokenId>> Tokenize(const std::string& model, const std::string& text,
                                                                bool add_bos) = 0;
  virtual std::variant<ApiError, std::vector<TokenId>> TokenizeChat(const ChatRequest& request) = 0;
  virtual std::variant<ApiError, std::string> Detokenize(const std::string& model,
                                                         const std::vector<int64_t>& tokens) = 0;
  virtual ModelInfo model() const = 0;
  virtual std::string NotReady() const = 0;  // empty string when ready; "loading: ..." or "draining"
  // What the next loss of a worker would cost; empty string: a pause, no more.
  virtual std::string Unprotected() const = 0;
};

}  // namespace braid
