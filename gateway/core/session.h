#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/core/output_parser.h"
#include "gateway/core/stop_matcher.h"
#include "gateway/inference.h"
#include "model/tokenizer.h"

namespace braid {

// A generated token as the router reports it.
struct GeneratedToken {
  TokenId token = 0;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;  // alternatives, best first
};

// A token's score with the bytes it stands for.
TokenScore ToTokenScore(const GeneratedToken& scored, const Tokenizer& tokenizer);

struct SessionOptions {
  int choice = 0;
  bool chat = false;         // split reasoning, content and tool calls; otherwise all text is content
  bool parse_calls = false;  // chat only: the request offered tools and did not forbid their use
  bool want_logprobs = false;
  std::vector<std::string> stop;  // none empty
  uint64_t id_seed = 0;           // of the tool calls' ids; differs between calls of the service
};

// One choice of a call: folds its token log into deltas. A pure function of (options, tokens): however the tokens are
// grouped, the texts of each kind, the tokens and the scores add up to the same. Thread-compatible.
//
// What counts as text: whole characters only; special tokens have none. Stop strings are looked for in the content
// alone, across tokens and characters: one who asks to stop at a blank line means the answer, not the reasoning that
// comes before it, and a call's arguments must stay whole.
//
// Every token of the log up to the last one is in exactly one delta, the stop token included; one delta without text
// may come last to carry those that had none.
class Session {
 public:
  // `tokenizer` must outlive the session.
  Session(const Tokenizer* tokenizer, SessionOptions options);

  // Appends to `out`. Does nothing once stopped().
  void Push(const GeneratedToken& token, std::vector<Delta>* out);
  // The router said that the log is complete. `at_limit`: cut off at max_tokens rather than ended by a stop token.
  void Finish(bool at_limit, std::vector<Delta>* out);

  // A stop string was found: the choice is finished and its sequence should be cancelled.
  bool stopped() const { return stops_.matched(); }
  // REQUIRES: finished, one way or the other.
  Finished::Reason reason() const;
  int64_t completion_tokens() const { return completion_tokens_; }
  int64_t reasoning_tokens() const { return reasoning_tokens_; }

 private:
  bool IsControl(TokenId token) const;
  void Remember(const GeneratedToken& token);
  void OnText(const std::string& text, std::vector<Delta>* out);
  void OnControl(TokenId token, std::vector<Delta>* out);
  void OnEvents(const std::vector<OutputEvent>& events, std::vector<Delta>* out);
  void Emit(Delta::Kind kind, std::string text, std::vector<Delta>* out);
  void EmitCall(const OutputEvent& event, std::vector<Delta>* out);
  void Append(Delta delta, std::vector<Delta>* out);
  void CarryLeftovers(std::vector<Delta>* out);
  std::string CallId(int index) const;

  const Tokenizer* const tokenizer_;
  const SessionOptions options_;
  std::vector<TokenId> markers_;  // tokens the parser must see as such, special or not
  Utf8Assembler utf8_;
  OutputParser parser_;
  StopMatcher stops_;
  std::vector<TokenId> unclaimed_;  // tokens not yet in a delta
  std::vector<TokenScore> unclaimed_scores_;
  int64_t completion_tokens_ = 0;
  int64_t reasoning_tokens_ = 0;
  bool at_limit_ = false;
};

}  // namespace braid
