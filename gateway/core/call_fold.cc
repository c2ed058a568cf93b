#include "gateway/core/call_fold.h"

#include <cmath>
#include <limits>
#include <utility>

namespace braid {

CallFold::CallFold(const Tokenizer* tokenizer, PreparedCall call, uint64_t id_seed)
    : tokenizer_(tokenizer), call_(std::move(call)) {
  const int count = static_cast<int>(call_.prompts.size()) * call_.n;
  for (int i = 0; i < count; ++i) {
    SessionOptions options{i, call_.chat, call_.parse_calls, call_.want_logprobs, call_.stop, id_seed};
    choices_.push_back(Choice{Session(tokenizer, std::move(options))});
    if (WantsPromptScores()) choices_.back().prompt_scores = UnscoredPrompt(i);
  }
  not_accepted_ = not_finished_ = count;
}

int64_t CallFold::prompt_tokens() const {
  int64_t tokens = 0;
  for (const PreparedPrompt& prompt : call_.prompts) tokens += static_cast<int64_t>(prompt.tokens.size());
  return tokens;
}

v1::GenerateSequenceRequest CallFold::Request(int choice, const std::string& request_id) const {
  const PreparedPrompt& prompt = PromptOf(choice);
  v1::GenerateSequenceRequest request;
  request.set_request_id(request_id);
  request.mutable_prompt()->Add(prompt.tokens.begin(), prompt.tokens.end());
  *request.mutable_sampling() = call_.sampling;
  request.mutable_sampling()->set_choice(static_cast<uint32_t>(choice % call_.n));
  request.set_max_new_tokens(static_cast<uint32_t>(prompt.max_new_tokens));
  request.mutable_stop_tokens()->Add(call_.stop_tokens.begin(), call_.stop_tokens.end());
  request.set_want_logprobs(call_.want_logprobs);
  request.set_top_logprobs(static_cast<uint32_t>(call_.top_logprobs));
  request.set_want_prompt_logprobs(WantsPromptScores());
  request.set_cache_scope(call_.cache_scope);
  request.set_no_cache(call_.no_cache);
  return request;
}

std::vector<TokenScore> CallFold::UnscoredPrompt(int choice) const {
  std::vector<TokenScore> scores;
  for (TokenId token : PromptOf(choice).tokens)
    scores.push_back(ToTokenScore({token, std::numeric_limits<float>::quiet_NaN(), {}}, *tokenizer_));
  return scores;
}

void CallFold::OnUpdate(int index, const SequenceUpdate& update) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (ended_ || choice.finished) return;
  if (update.accepted) Accept(&choice, update.cached_tokens);
  Score(&choice, update.prompt_scores);
  if (update.tokens.empty() && !update.end) return;
  Echo(index);
  std::vector<Delta> deltas;
  for (const GeneratedToken& token : update.tokens) choice.session.Push(token, &deltas);
  if (update.end) choice.session.Finish(*update.end == SequenceUpdate::End::kLimit, &deltas);
  Tell(std::move(deltas));
  if (choice.session.stopped() && !update.end) needless_.push_back(index);
  if (choice.session.stopped() || update.end) FinishChoice(index);
}

void CallFold::OnFailed(ApiError error) {
  if (std::exchange(ended_, true)) return;
  if (not_accepted_ > 0) events_.clear();  // nothing was told yet, and now never will be
  not_accepted_ = 0;
  events_.push_back(std::move(error));
}

std::vector<CallEvent> CallFold::TakeEvents() {
  if (not_accepted_ > 0) return {};
  return std::exchange(events_, {});
}

std::vector<int> CallFold::TakeNeedless() { return std::exchange(needless_, {}); }

void CallFold::Accept(Choice* choice, int64_t cached_tokens) {
  if (std::exchange(choice->accepted, true)) return;
  choice->cached_tokens = cached_tokens;
  if (--not_accepted_ == 0) events_.insert(events_.begin(), Accepted{});
}

void CallFold::Score(Choice* choice, const std::vector<SequenceUpdate::PromptScore>& scores) {
  for (const SequenceUpdate::PromptScore& scored : scores) {
    if (scored.position >= choice->prompt_scores.size()) continue;
    choice->prompt_scores[scored.position] = ToTokenScore(scored.score, *tokenizer_);
  }
}

void CallFold::Echo(int index) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (!call_.echo || std::exchange(choice.echoed, true)) return;
  events_.push_back(EchoedPrompt{index, PromptOf(index).text, std::move(choice.prompt_scores)});
}

void CallFold::Tell(std::vector<Delta> deltas) {
  for (Delta& delta : deltas) events_.push_back(std::move(delta));
}

void CallFold::FinishChoice(int index) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  choice.finished = true;
  events_.push_back(Finished{index, choice.session.reason()});
  if (--not_finished_ == 0) FinishCall();
}

void CallFold::FinishCall() {
  Done done;
  done.prompt_tokens = prompt_tokens();
  for (const Choice& choice : choices_) {
    done.completion_tokens += choice.session.completion_tokens();
    done.reasoning_tokens += choice.session.reasoning_tokens();
  }
  // As for prompt_tokens; the first of a prompt's choices is the one that finds the least.
  for (size_t i = 0; i < choices_.size(); i += static_cast<size_t>(call_.n)) {
    done.cached_tokens += choices_[i].cached_tokens;
  }
  done.seed = call_.sampling.seed();
  events_.push_back(done);
  ended_ = true;
}

}  // namespace braid
