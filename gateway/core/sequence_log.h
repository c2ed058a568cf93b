#pragma once

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "braid/v1/router.pb.h"
#include "gateway/core/session.h"

namespace braid {

// What one message of the router adds to a sequence.
struct SequenceUpdate {
  struct PromptScore {
    size_t position = 0;  // in the prompt
    GeneratedToken score;
  };
  bool accepted = false;      // for the first time
  int64_t cached_tokens = 0;  // then: of the prompt
  std::vector<PromptScore> prompt_scores;
  std::vector<GeneratedToken> tokens;
  enum class End { kStop, kLimit };
  std::optional<End> end;
};

// The gateway's half of the promise that no accepted request is lost or changed: the token log of one sequence. It
// lives here as well as in the router, so when the router's stream breaks, the request goes out again with the tokens
// so far and the answer continues with the token that follows. Each token comes out once, whatever happens between.
//
// Pure: messages, ends and nothing else come in; what to do comes out. Thread-compatible.
class SequenceLog {
 public:
  explicit SequenceLog(v1::GenerateSequenceRequest request) : request_(std::move(request)) {}

  // What to send: the request with the log so far.
  const v1::GenerateSequenceRequest& request() const { return request_; }

  // kInternal if the router contradicts its protocol: a gap in the tokens, tokens before `accepted` or after the end.
  absl::StatusOr<SequenceUpdate> OnResponse(const v1::GenerateSequenceResponse& response);

  // The stream is over. Nothing: the sequence has ended well. A duration: send request() again after that time.
  // A status: it failed for good.
  struct Nothing {};
  using Next = std::variant<Nothing, absl::Duration, absl::Status>;
  Next OnEnd(const absl::Status& status);

 private:
  absl::StatusOr<SequenceUpdate> OnTokens(const v1::SequenceTokens& tokens);
  SequenceUpdate OnPromptLogprobs(const v1::PromptLogprobs& logprobs) const;

  v1::GenerateSequenceRequest request_;
  bool accepted_ = false;
  bool ended_ = false;
  int failures_ = 0;  // in a row, without a message between
};

}  // namespace braid
