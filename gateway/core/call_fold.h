#pragma once

#include <string>
#include <vector>

#include "braid/v1/router.pb.h"
#include "gateway/core/sequence_log.h"
#include "gateway/core/session.h"
#include "gateway/core/validate.h"
#include "gateway/inference.h"

namespace braid {

// One call: what its sequences report becomes what its caller is told, in the order that inference.h promises. Nothing
// is told before every sequence is accepted; what arrives earlier waits (it is bounded by the answers themselves).
// Pure and thread-compatible.
class CallFold {
 public:
  // `tokenizer` must outlive the fold. `id_seed` makes the tool calls' ids unlike those of other calls.
  CallFold(const Tokenizer* tokenizer, PreparedCall call, uint64_t id_seed);

  int sequences() const { return static_cast<int>(choices_.size()); }
  int64_t prompt_tokens() const;  // each prompt once, whatever n
  // What to ask the router for choice `choice`.
  v1::GenerateSequenceRequest Request(int choice, const std::string& request_id) const;

  // REQUIRES: choice in [0, sequences()). Ignored once ended(), and for a choice that has finished.
  void OnUpdate(int choice, const SequenceUpdate& update);
  void OnFailed(ApiError error);

  // What is to be told now, in order. After a terminal event (Done, ApiError) nothing follows.
  std::vector<CallEvent> TakeEvents();
  // Choices finished by a stop string since the last time: their sequences need not go on.
  std::vector<int> TakeNeedless();
  bool ended() const { return ended_; }

 private:
  struct Choice {
    Session session;
    bool accepted = false, echoed = false, finished = false;
    int64_t cached_tokens = 0;
    std::vector<TokenScore> prompt_scores;  // with echo and logprobs: one per prompt token
  };
  const PreparedPrompt& PromptOf(int choice) const { return call_.prompts[static_cast<size_t>(choice / call_.n)]; }
  bool WantsPromptScores() const { return call_.echo && call_.want_logprobs; }
  std::vector<TokenScore> UnscoredPrompt(int choice) const;

  void Accept(Choice* choice, int64_t cached_tokens);
  void Score(Choice* choice, const std::vector<SequenceUpdate::PromptScore>& scores);
  void Echo(int index);
  void Tell(std::vector<Delta> deltas);
  void FinishChoice(int index);
  void FinishCall();

  const Tokenizer* const tokenizer_;
  const PreparedCall call_;
  std::vector<Choice> choices_;
  int not_accepted_, not_finished_;
  bool ended_ = false;
  std::vector<CallEvent> events_;
  std::vector<int> needless_;
};

}  // namespace braid
