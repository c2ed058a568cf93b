#include "gateway/core/session.h"

#include <algorithm>
#include <iterator>

#include "base/planted_bug.h"
#include "base/rng.h"

namespace braid {

TokenScore ToTokenScore(const GeneratedToken& scored, const Tokenizer& tokenizer) {
  TokenScore score{scored.token, std::string(tokenizer.Bytes(scored.token)), scored.logprob, {}};
  for (const auto& [token, logprob] : scored.top)
    score.top.push_back({token, std::string(tokenizer.Bytes(token)), logprob, {}});
  return score;
}

Session::Session(const Tokenizer* tokenizer, SessionOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)), parser_(options_.parse_calls), stops_(options_.stop) {
  for (const char* text : {"<think>", "</think>", "<|tool_call_start|>", "<|tool_call_end|>"})
    if (const std::optional<TokenId> id = tokenizer_->Find(text)) markers_.push_back(*id);
}

void Session::Push(const GeneratedToken& token, std::vector<Delta>* out) {
  if (stopped()) return;
  Remember(token);
  const bool reasoned = parser_.in_reasoning();
  if (IsControl(token.token)) {
    OnControl(token.token, out);
  } else {
    if (Planted(Bug::kForgetsHalfCharacter)) utf8_ = {};
    OnText(utf8_.Push(tokenizer_->Bytes(token.token)), out);
  }
  if (reasoned || parser_.in_reasoning()) ++reasoning_tokens_;
  if (stopped()) CarryLeftovers(out);
}

void Session::Finish(bool at_limit, std::vector<Delta>* out) {
  if (stopped()) return;
  at_limit_ = at_limit;
  OnText(utf8_.Finish(), out);
  if (options_.chat) OnEvents(parser_.Finish(!at_limit), out);
  if (!stopped()) Emit(Delta::Kind::kContent, stops_.Flush(), out);
  CarryLeftovers(out);
}

Finished::Reason Session::reason() const {
  if (at_limit_ && !stopped()) return Finished::Reason::kLength;
  return parser_.calls() > 0 ? Finished::Reason::kToolCalls : Finished::Reason::kStop;
}

bool Session::IsControl(TokenId token) const {
  if (tokenizer_->IsSpecial(token)) return true;
  if (std::ranges::find(tokenizer_->stop_tokens(), token) != tokenizer_->stop_tokens().end()) return true;
  return options_.chat && std::ranges::find(markers_, token) != markers_.end();
}

void Session::Remember(const GeneratedToken& token) {
  ++completion_tokens_;
  unclaimed_.push_back(token.token);
  if (options_.want_logprobs) unclaimed_scores_.push_back(ToTokenScore(token, *tokenizer_));
}

void Session::OnText(const std::string& text, std::vector<Delta>* out) {
  if (text.empty()) return;
  if (options_.chat) {
    OnEvents(parser_.OnText(text), out);
  } else {
    Emit(Delta::Kind::kContent, stops_.Push(text), out);
  }
}

void Session::OnControl(TokenId token, std::vector<Delta>* out) {
  OnText(utf8_.Finish(), out);  // a control token ends whatever character was under way
  if (options_.chat && !stopped()) OnEvents(parser_.OnControl(tokenizer_->Bytes(token)), out);
}

void Session::OnEvents(const std::vector<OutputEvent>& events, std::vector<Delta>* out) {
  for (const OutputEvent& event : events) {
    if (stopped()) return;
    if (event.kind == OutputEvent::Kind::kContent) {
      Emit(Delta::Kind::kContent, stops_.Push(event.text), out);
      continue;
    }
    Emit(Delta::Kind::kContent, stops_.Flush(), out);
    if (event.kind == OutputEvent::Kind::kReasoning) {
      Emit(Delta::Kind::kReasoning, event.text, out);
    } else {
      EmitCall(event, out);
    }
  }
}

void Session::Emit(Delta::Kind kind, std::string text, std::vector<Delta>* out) {
  if (text.empty()) return;
  Delta delta;
  delta.kind = kind;
  delta.text = std::move(text);
  Append(std::move(delta), out);
}

void Session::EmitCall(const OutputEvent& event, std::vector<Delta>* out) {
  if (event.kind == OutputEvent::Kind::kToolCallEnd) return;
  Delta delta;
  delta.kind = Delta::Kind::kToolCall;
  delta.tool_index = event.index;
  if (event.kind == OutputEvent::Kind::kToolCallBegin) {
    delta.tool_id = CallId(event.index);
    delta.tool_name = event.text;
  } else {
    delta.text = event.text;
  }
  Append(std::move(delta), out);
}

// Claims the tokens that were waiting, and joins the delta to the one before it where they make one.
void Session::Append(Delta delta, std::vector<Delta>* out) {
  delta.choice = options_.choice;
  delta.tokens = std::exchange(unclaimed_, {});
  delta.logprobs = std::exchange(unclaimed_scores_, {});
  const bool joins = !out->empty() && out->back().choice == delta.choice && out->back().kind == delta.kind &&
                     delta.kind != Delta::Kind::kToolCall;
  if (!joins) {
    out->push_back(std::move(delta));
    return;
  }
  Delta& last = out->back();
  last.text += delta.text;
  std::ranges::move(delta.tokens, std::back_inserter(last.tokens));
  std::ranges::move(delta.logprobs, std::back_inserter(last.logprobs));
}

void Session::CarryLeftovers(std::vector<Delta>* out) {
  if (!unclaimed_.empty()) Append(Delta{}, out);
}

// As long as OpenAI's. A pure function, so that a replayed fold names its calls as before.
std::string Session::CallId(int index) const {
  constexpr char kAlphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(options_.id_seed),
                                       static_cast<uint32_t>(options_.id_seed >> 32)};
  std::string id = "call_";
  for (uint32_t block = 0; block < 6; ++block) {
    const auto random =
        Philox4x32({static_cast<uint32_t>(options_.choice), static_cast<uint32_t>(index), block, 0}, key);
    for (uint32_t word : random) id += kAlphabet[word % 62];
  }
  return id;
}

}  // namespace braid
