#include "gateway/core/sequence_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace braid {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

v1::GenerateSequenceResponse AcceptedMessage() {
  v1::GenerateSequenceResponse response;
  response.mutable_accepted();
  return response;
}

v1::GenerateSequenceResponse Tokens(uint32_t position, const std::vector<TokenId>& tokens) {
  v1::GenerateSequenceResponse response;
  response.mutable_tokens()->set_position(position);
  response.mutable_tokens()->mutable_tokens()->Add(tokens.begin(), tokens.end());
  return response;
}

v1::GenerateSequenceResponse FinishedMessage(v1::SequenceFinished::Reason reason) {
  v1::GenerateSequenceResponse response;
  response.mutable_finished()->set_reason(reason);
  return response;
}

std::vector<TokenId> Ids(const absl::StatusOr<SequenceUpdate>& update) {
  EXPECT_TRUE(update.ok()) << update.status();
  std::vector<TokenId> ids;
  if (update.ok())
    for (const GeneratedToken& token : update->tokens) ids.push_back(token.token);
  return ids;
}

std::vector<TokenId> Generated(const SequenceLog& log) {
  return {log.request().generated().begin(), log.request().generated().end()};
}

SequenceLog MakeLog() {
  v1::GenerateSequenceRequest request;
  request.add_prompt(1);
  request.set_max_new_tokens(10);
  request.set_want_prompt_logprobs(true);
  return SequenceLog(std::move(request));
}

TEST(SequenceLog, RemembersTheTokensForTheNextAttempt) {
  SequenceLog log = MakeLog();
  EXPECT_TRUE(log.OnResponse(AcceptedMessage())->accepted);
  EXPECT_THAT(Ids(log.OnResponse(Tokens(0, {5, 6}))), ElementsAre(5, 6));
  EXPECT_THAT(Generated(log), ElementsAre(5, 6));
  EXPECT_FALSE(log.request().want_prompt_logprobs());
}

TEST(SequenceLog, ResubmitsAnAcceptedSequenceWhenItsStreamBreaks) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  ASSERT_TRUE(log.OnResponse(Tokens(0, {5})).ok());
  EXPECT_TRUE(std::holds_alternative<absl::Duration>(log.OnEnd(absl::UnavailableError("gone"))));
  EXPECT_FALSE(log.OnResponse(AcceptedMessage())->accepted) << "the caller heard that already";
  EXPECT_THAT(Ids(log.OnResponse(Tokens(1, {6}))), ElementsAre(6));
  EXPECT_EQ(log.OnResponse(FinishedMessage(v1::SequenceFinished::REASON_STOP))->end, SequenceUpdate::End::kStop);
  EXPECT_TRUE(std::holds_alternative<SequenceLog::Nothing>(log.OnEnd(absl::OkStatus())));
}

TEST(SequenceLog, TokensSaidTwiceComeOutOnce) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  ASSERT_TRUE(log.OnResponse(Tokens(0, {5, 6})).ok());
  EXPECT_THAT(Ids(log.OnResponse(Tokens(0, {5, 6, 7}))), ElementsAre(7));
  EXPECT_THAT(Ids(log.OnResponse(Tokens(1, {6}))), IsEmpty());
  EXPECT_THAT(Generated(log), ElementsAre(5, 6, 7));
}

TEST(SequenceLog, RefusesAGap) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  EXPECT_FALSE(log.OnResponse(Tokens(1, {6})).ok());
}

TEST(SequenceLog, RefusesTokensBeforeAcceptedAndAfterTheEnd) {
  SequenceLog early = MakeLog();
  EXPECT_FALSE(early.OnResponse(Tokens(0, {5})).ok());
  SequenceLog late = MakeLog();
  ASSERT_TRUE(late.OnResponse(AcceptedMessage()).ok());
  ASSERT_TRUE(late.OnResponse(FinishedMessage(v1::SequenceFinished::REASON_LENGTH)).ok());
  EXPECT_FALSE(late.OnResponse(Tokens(0, {5})).ok());
}

TEST(SequenceLog, DoesNotResubmitWhatWasNeverAccepted) {
  SequenceLog log = MakeLog();
  const SequenceLog::Next next = log.OnEnd(absl::UnavailableError("no group is ready"));
  ASSERT_TRUE(std::holds_alternative<absl::Status>(next));
  EXPECT_EQ(std::get<absl::Status>(next).code(), absl::StatusCode::kUnavailable);
}

TEST(SequenceLog, AnOkWithoutAnEndIsNotAnEnd) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  EXPECT_TRUE(std::holds_alternative<absl::Duration>(log.OnEnd(absl::OkStatus())));
}

TEST(SequenceLog, GivesUpWhatFailedForItsOwnReasons) {
  for (const absl::Status& status : {absl::AbortedError("quarantined"), absl::InternalError("not finite"),
                                     absl::DeadlineExceededError("too late")}) {
    SequenceLog log = MakeLog();
    ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
    const SequenceLog::Next next = log.OnEnd(status);
    ASSERT_TRUE(std::holds_alternative<absl::Status>(next)) << status;
    EXPECT_EQ(std::get<absl::Status>(next), status);
  }
}

TEST(SequenceLog, WaitsForWorkersThatAreLargeEnoughAgain) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  ASSERT_TRUE(std::holds_alternative<absl::Duration>(log.OnEnd(absl::UnavailableError("gone"))));
  // A new router that so far knows the smaller workers only.
  const absl::Status status = absl::InvalidArgumentError("the largest worker has KV memory for 100 tokens");
  EXPECT_TRUE(std::holds_alternative<absl::Duration>(log.OnEnd(status)));
}

TEST(SequenceLog, BacksOffUpToASecondAndStartsOverOnceTheRouterSpeaks) {
  SequenceLog log = MakeLog();
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  const auto fail = [&] { return std::get<absl::Duration>(log.OnEnd(absl::UnavailableError("gone"))); };
  EXPECT_EQ(fail(), absl::Milliseconds(100));
  EXPECT_EQ(fail(), absl::Milliseconds(200));
  for (int i = 0; i < 100; ++i) EXPECT_LE(fail(), absl::Seconds(1));
  ASSERT_TRUE(log.OnResponse(AcceptedMessage()).ok());
  EXPECT_EQ(fail(), absl::Milliseconds(100));
}

}  // namespace
}  // namespace braid
