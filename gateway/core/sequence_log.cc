#include "gateway/core/sequence_log.h"

#include <algorithm>

#include "base/planted_bug.h"

namespace braid {
namespace {

GeneratedToken FromProto(const v1::TokenLogprob& logprob) {
  GeneratedToken token{logprob.token(), logprob.logprob(), {}};
  for (const v1::TokenAlternative& top : logprob.top()) token.top.emplace_back(top.token(), top.logprob());
  return token;
}

// Ends that say something about the router or the way to it, not about the request.
bool MayGoOnElsewhere(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:                 // without a `finished`
    case absl::StatusCode::kUnavailable:        // gone, draining, not ready yet
    case absl::StatusCode::kCancelled:          // by a router that shuts down; our own cancelling asks no one
    case absl::StatusCode::kUnknown:            // how gRPC reports some broken connections
    case absl::StatusCode::kResourceExhausted:  // a new router is full; we were accepted once and wait
    case absl::StatusCode::kInvalidArgument:    // too large for the workers of now; it was not for those of then
      return !Planted(Bug::kGivesUpWithTheRouter);
    default:
      return false;
  }
}

constexpr absl::Duration kBackoffMin = absl::Milliseconds(100);
constexpr absl::Duration kBackoffMax = absl::Milliseconds(500);

absl::Duration Backoff(int failures) { return std::min(kBackoffMin * (1 << std::min(failures, 10)), kBackoffMax); }

}  // namespace

absl::StatusOr<SequenceUpdate> SequenceLog::OnResponse(const v1::GenerateSequenceResponse& response) {
  failures_ = 0;
  if (ended_) return absl::InternalError("the router went on after the end of a sequence");
  if (!accepted_ && !response.has_accepted()) return absl::InternalError("the router sent tokens before accepting");
  SequenceUpdate update;
  switch (response.event_case()) {
    case v1::GenerateSequenceResponse::kAccepted:
      update.accepted = !std::exchange(accepted_, true);
      update.cached_tokens =
          std::min(response.accepted().cached_tokens(), static_cast<uint32_t>(request_.prompt_size()));
      return update;
    case v1::GenerateSequenceResponse::kTokens:
      return OnTokens(response.tokens());
    case v1::GenerateSequenceResponse::kPromptLogprobs:
      return OnPromptLogprobs(response.prompt_logprobs());
    case v1::GenerateSequenceResponse::kFinished: {
      ended_ = true;
      const bool limit = response.finished().reason() == v1::SequenceFinished::REASON_LENGTH;
      update.end = limit ? SequenceUpdate::End::kLimit : SequenceUpdate::End::kStop;
      return update;
    }
    case v1::GenerateSequenceResponse::EVENT_NOT_SET:
      return update;  // an event of a newer router
  }
  return update;
}

absl::StatusOr<SequenceUpdate> SequenceLog::OnTokens(const v1::SequenceTokens& tokens) {
  const int known = request_.generated_size();
  const int position = static_cast<int>(std::min<uint32_t>(tokens.position(), INT32_MAX));
  if (position > known) return absl::InternalError("the router left out tokens");
  if (tokens.logprobs_size() != 0 && tokens.logprobs_size() != tokens.tokens_size())
    return absl::InternalError("the router sent another number of scores than of tokens");
  SequenceUpdate update;
  for (int i = known - position; i < tokens.tokens_size(); ++i) {
    request_.add_generated(tokens.tokens(i));
    update.tokens.push_back(tokens.logprobs_size() == 0 ? GeneratedToken{tokens.tokens(i), 0, {}}
                                                        : FromProto(tokens.logprobs(i)));
    update.tokens.back().token = tokens.tokens(i);
  }
  if (!update.tokens.empty()) request_.set_want_prompt_logprobs(false);  // they came before the first token
  return update;
}

SequenceUpdate SequenceLog::OnPromptLogprobs(const v1::PromptLogprobs& logprobs) const {
  SequenceUpdate update;
  size_t position = logprobs.position();
  for (const v1::TokenLogprob& logprob : logprobs.logprobs())
    update.prompt_scores.push_back({position++, FromProto(logprob)});
  return update;
}

SequenceLog::Next SequenceLog::OnEnd(const absl::Status& status) {
  if (ended_) return Nothing{};
  if (Planted(Bug::kResubmitsWithoutTokens)) request_.clear_generated();
  if (Planted(Bug::kDeliversTwice) && request_.generated_size() > 0) request_.mutable_generated()->RemoveLast();
  if (accepted_ && MayGoOnElsewhere(status.code())) return Backoff(failures_++);
  if (status.ok()) return absl::InternalError("the router ended a call without an answer");
  return status;
}

}  // namespace braid
