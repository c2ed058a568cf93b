#include "gateway/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "absl/synchronization/notification.h"
#include "gateway/fake_router.h"

namespace braid {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using Writer = FakeRouter::Writer;
using Request = v1::GenerateSequenceRequest;

// Collects the events of one call and checks the promises that hold for every call.
class Events {
 public:
  Inference::Sink Sink() {
    return [this](CallEvent event) {
      EXPECT_EQ(in_sink_++, 0) << "events come one at a time";
      absl::MutexLock lock(&mutex_);
      EXPECT_FALSE(ended_) << "nothing follows the last event";
      const bool opens = std::holds_alternative<Accepted>(event) || std::holds_alternative<ApiError>(event);
      EXPECT_TRUE(opens || !events_.empty());
      ended_ = std::holds_alternative<Done>(event) || std::holds_alternative<ApiError>(event);
      events_.push_back(std::move(event));
      --in_sink_;
    };
  }
  std::vector<CallEvent> WaitForEnd() {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&ended_), absl::Seconds(20)));
    return events_;
  }
  size_t size() const {
    absl::MutexLock lock(&mutex_);
    return events_.size();
  }

 private:
  std::atomic<int> in_sink_ = 0;
  mutable absl::Mutex mutex_;
  bool ended_ = false;
  std::vector<CallEvent> events_;
};

struct Outcome {
  std::map<int, std::string> text;
  std::map<int, Finished::Reason> reasons;
  std::optional<Done> done;
  std::optional<ApiError> error;
  int64_t tokens = 0;
};

Outcome Summarize(const std::vector<CallEvent>& events) {
  Outcome outcome;
  for (const CallEvent& event : events) {
    if (const auto* delta = std::get_if<Delta>(&event)) {
      outcome.text[delta->choice] += delta->text;
      outcome.tokens += static_cast<int64_t>(delta->tokens.size());
    }
    if (const auto* finished = std::get_if<Finished>(&event)) outcome.reasons[finished->choice] = finished->reason;
    if (const auto* done = std::get_if<Done>(&event)) outcome.done = *done;
    if (const auto* error = std::get_if<ApiError>(&event)) outcome.error = *error;
  }
  return outcome;
}

class InferenceServiceTest : public testing::Test {
 protected:
  void Start(InferenceService::Options options = {}) {
    service_ = std::make_unique<InferenceService>(MakeTestModel(), router_.channel(), options, &metrics_);
    ASSERT_TRUE(Eventually([&] { return service_->NotReady().empty(); })) << service_->NotReady();
  }
  std::variant<ApiError, std::unique_ptr<Call>> Chat(Events* events, GenerationParams params = {}) {
    ChatRequest request;
    request.messages = {{"user", "hi", {}, {}, {}}};
    request.params = std::move(params);
    return service_->http()->StartChat(std::move(request), "req-1", events->Sink());
  }
  std::variant<ApiError, std::unique_ptr<Call>> Complete(Events* events, CompletionRequest request) {
    return service_->grpc()->StartCompletion(std::move(request), "req-2", events->Sink());
  }
  Outcome RunChat(GenerationParams params = {}) {
    Events events;
    const auto call = Chat(&events, std::move(params));
    if (const auto* error = std::get_if<ApiError>(&call)) return {.error = *error};
    return Summarize(events.WaitForEnd());
  }
  // The value of a metric's line in the exposition, e.g. `braid_requests_total{door="http",outcome="ok"}`.
  double Metric(const std::string& line) {
    const std::string text = metrics_.Serialize();
    const size_t at = text.find("\n" + line + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
  }

  Metrics metrics_;
  FakeRouter router_;
  std::unique_ptr<InferenceService> service_;  // before the router goes
};

TEST_F(InferenceServiceTest, TellsAnAnswerFromAcceptedToDone) {
  router_.SetScript(FakeRouter::Answer({'y', 'e', 's', kImEnd}));
  Start();
  const Outcome outcome = RunChat();
  EXPECT_EQ(outcome.text.at(0), "yes");
  EXPECT_EQ(outcome.reasons.at(0), Finished::Reason::kStop);
  ASSERT_TRUE(outcome.done);
  EXPECT_EQ(outcome.done->completion_tokens, 4);
  EXPECT_EQ(outcome.tokens, 4);
  EXPECT_EQ(outcome.done->prompt_tokens, router_.requests()[0].prompt_size());
  EXPECT_EQ(outcome.done->seed, router_.requests()[0].sampling().seed());
}

TEST_F(InferenceServiceTest, CountsExactlyTheTokensDelivered) {
  router_.SetScript(FakeRouter::Answer({'y', 'e', 's', kImEnd}));
  Start();
  RunChat();
  EXPECT_EQ(Metric("braid_generated_tokens_total"), 4);
  EXPECT_EQ(Metric("braid_prompt_tokens_total"), router_.requests()[0].prompt_size());
  EXPECT_EQ(Metric(R"(braid_requests_total{door="http",outcome="ok"})"), 1);
  EXPECT_EQ(Metric("braid_requests_in_progress"), 0);
  EXPECT_EQ(Metric("braid_time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(Metric("braid_request_generated_tokens_sum"), 4);
}

TEST_F(InferenceServiceTest, SaysLengthWhenTheLimitCutTheAnswer) {
  router_.SetScript(FakeRouter::Answer({'a', 'b', 'c', kImEnd}));
  Start();
  const Outcome outcome = RunChat({.max_tokens = 2});
  EXPECT_EQ(outcome.text.at(0), "ab");
  EXPECT_EQ(outcome.reasons.at(0), Finished::Reason::kLength);
}

TEST_F(InferenceServiceTest, StopStringCancelsTheSequenceAndFinishesTheCall) {
  absl::Notification cancelled;
  router_.SetScript([&](grpc::ServerContext* context, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::Tokens(writer, 0, {'a', '\n', '\n', 'b'});
    FakeRouter::WaitForCancel(context);
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  Start();
  const Outcome outcome = RunChat({.stop = {"\n\n"}});
  EXPECT_EQ(outcome.text.at(0), "a");
  EXPECT_EQ(outcome.reasons.at(0), Finished::Reason::kStop);
  EXPECT_EQ(outcome.done->completion_tokens, 3);
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST_F(InferenceServiceTest, ChoicesAreSequencesOfTheirOwn) {
  router_.SetScript([](grpc::ServerContext* context, const Request& request, Writer* writer) {
    const auto letter = static_cast<TokenId>('a' + request.sampling().choice());
    return FakeRouter::Answer({letter, kImEnd})(context, request, writer);
  });
  Start();
  CompletionRequest request;
  request.prompts = {"x", "y"};
  request.params.n = 3;
  request.params.max_tokens = 4;
  Events events;
  const auto call = Complete(&events, request);
  const Outcome outcome = Summarize(events.WaitForEnd());
  EXPECT_THAT(outcome.text, ElementsAre(testing::Pair(0, "a"), testing::Pair(1, "b"), testing::Pair(2, "c"),
                                        testing::Pair(3, "a"), testing::Pair(4, "b"), testing::Pair(5, "c")));
  EXPECT_EQ(outcome.done->prompt_tokens, 4) << "BOS and a letter, once per prompt";
  EXPECT_EQ(outcome.done->completion_tokens, 12);
  EXPECT_EQ(Metric(R"(braid_requests_total{door="grpc",outcome="ok"})"), 1);
}

TEST_F(InferenceServiceTest, AcceptedWaitsForEverySequence) {
  absl::Notification first_ran;
  router_.SetScript([&](grpc::ServerContext* context, const Request& request, Writer* writer) {
    if (request.sampling().choice() == 1) first_ran.WaitForNotification();
    const grpc::Status status = FakeRouter::Answer({'a', kImEnd})(context, request, writer);
    if (request.sampling().choice() == 0) first_ran.Notify();
    return status;
  });
  Start();
  const Outcome outcome = RunChat({.n = 2});
  EXPECT_THAT(outcome.text, SizeIs(2));
  EXPECT_TRUE(outcome.done);
}

TEST_F(InferenceServiceTest, OneRefusedSequenceRefusesTheCallBeforeAnythingIsTold) {
  router_.SetScript([](grpc::ServerContext* context, const Request& request, Writer* writer) {
    if (request.sampling().choice() == 0) return FakeRouter::Answer({'a', kImEnd})(context, request, writer);
    context->AddTrailingMetadata("retry-after-ms", "2500");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
  });
  Start();
  Events events;
  const auto call = Chat(&events, {.n = 2});
  const auto told = events.WaitForEnd();
  ASSERT_THAT(told, SizeIs(1));
  const ApiError& error = std::get<ApiError>(told[0]);
  EXPECT_EQ(HttpStatus(error), 429);
  EXPECT_EQ(error.code, "rate_limit_exceeded");
  EXPECT_EQ(error.retry_after, absl::Milliseconds(2500));
}

TEST_F(InferenceServiceTest, AnswerGoesOnWithTheSameTokensWhenTheStreamBreaks) {
  std::atomic<int> attempts = 0;
  router_.SetScript([&](grpc::ServerContext* context, const Request& request, Writer* writer) {
    if (attempts++ == 0) {
      FakeRouter::Accept(writer);
      FakeRouter::Tokens(writer, 0, {'a', 'b'});
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
    }
    return FakeRouter::Answer({'a', 'b', 'c', kImEnd})(context, request, writer);
  });
  Start();
  const Outcome outcome = RunChat();
  EXPECT_EQ(outcome.text.at(0), "abc");
  EXPECT_TRUE(outcome.done);
  ASSERT_THAT(router_.requests(), SizeIs(2));
  EXPECT_THAT(router_.requests()[1].generated(), ElementsAre('a', 'b'));
  EXPECT_EQ(Metric("braid_gateway_resubmissions_total"), 1);
}

TEST_F(InferenceServiceTest, RouterThatWasNeverReadyIsA503AtOnce) {
  router_.SetScript([](grpc::ServerContext*, const Request&, Writer*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "10.0.0.7 is draining");
  });
  Start();
  const Outcome outcome = RunChat();
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(HttpStatus(*outcome.error), 503);
  EXPECT_TRUE(outcome.error->retry_after);
  EXPECT_THAT(outcome.error->message, testing::Not(HasSubstr("10.0.0.7")));
}

TEST_F(InferenceServiceTest, AFailureInTheMiddleIsToldAsAnErrorNotAsAnEnd) {
  router_.SetScript([](grpc::ServerContext*, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::Tokens(writer, 0, {'a'});
    return grpc::Status(grpc::StatusCode::INTERNAL, "quarantined");
  });
  Start();
  const Outcome outcome = RunChat();
  EXPECT_EQ(outcome.text.at(0), "a");
  EXPECT_TRUE(outcome.reasons.empty());
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(HttpStatus(*outcome.error), 500);
}

TEST_F(InferenceServiceTest, AQuarantinedRequestIsToldWhy) {
  router_.SetScript([](grpc::ServerContext*, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    return grpc::Status(grpc::StatusCode::ABORTED, "workers crashed whenever they ran this request");
  });
  Start();
  const Outcome outcome = RunChat();
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(outcome.error->code, "request_quarantined");
  EXPECT_EQ(HttpStatus(*outcome.error), 500);
}

TEST_F(InferenceServiceTest, ARequestEndsAtItsTimeout) {
  router_.SetScript([](grpc::ServerContext* context, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::WaitForCancel(context);
    return grpc::Status::CANCELLED;
  });
  Start({.request_timeout = absl::Milliseconds(50)});
  const Outcome outcome = RunChat();
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(outcome.error->code, "timeout");
}

TEST_F(InferenceServiceTest, DestroyingTheCallCancelsItAndSilencesIt) {
  std::atomic<bool> cancelled = false;
  router_.SetScript([&](grpc::ServerContext* context, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    for (size_t at = 0; !context->IsCancelled(); ++at) FakeRouter::Tokens(writer, at, {'a'});
    cancelled = true;
    return grpc::Status::CANCELLED;
  });
  Start();
  Events events;
  auto call = Chat(&events);
  ASSERT_TRUE(Eventually([&] { return events.size() > 3; }));
  std::get<std::unique_ptr<Call>>(call) = nullptr;
  const size_t told = events.size();
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_EQ(events.size(), told);
  EXPECT_TRUE(service_->WaitUntilIdle(absl::Seconds(10)));
  EXPECT_EQ(Metric(R"(braid_requests_total{door="http",outcome="cancelled"})"), 1);
}

TEST_F(InferenceServiceTest, TheSinkMayDestroyItsOwnCall) {
  router_.SetScript(FakeRouter::Answer({'a', 'b', 'c', kImEnd}));
  Start();
  absl::Notification stored, destroyed;
  std::unique_ptr<Call> call;
  int events = 0;
  ChatRequest request;
  request.messages = {{"user", "hi", {}, {}, {}}};
  auto started = service_->http()->StartChat(request, "r", [&](CallEvent) {
    stored.WaitForNotification();
    if (++events != 2) return;
    call = nullptr;
    destroyed.Notify();
  });
  call = std::get<std::unique_ptr<Call>>(std::move(started));
  stored.Notify();
  EXPECT_TRUE(destroyed.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_TRUE(service_->WaitUntilIdle(absl::Seconds(10)));
  service_ = nullptr;  // waits for whatever is under way
  EXPECT_EQ(events, 2);
}

TEST_F(InferenceServiceTest, RefusesMoreThanItsLimitAndRecovers) {
  router_.SetScript([](grpc::ServerContext* context, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::WaitForCancel(context);
    return grpc::Status::CANCELLED;
  });
  Start({.requests_max = 1});
  Events first, second, third;
  auto running = Chat(&first);
  const auto refused = Chat(&second);
  ASSERT_TRUE(std::holds_alternative<ApiError>(refused));
  EXPECT_EQ(HttpStatus(std::get<ApiError>(refused)), 429);
  EXPECT_TRUE(std::get<ApiError>(refused).retry_after);
  std::get<std::unique_ptr<Call>>(running) = nullptr;
  EXPECT_TRUE(std::holds_alternative<std::unique_ptr<Call>>(Chat(&third)));
}

TEST_F(InferenceServiceTest, RefusesNewCallsWhileDraining) {
  router_.SetScript(FakeRouter::Answer({kImEnd}));
  Start();
  service_->Drain();
  EXPECT_EQ(service_->NotReady(), "draining");
  const Outcome outcome = RunChat();
  EXPECT_EQ(HttpStatus(*outcome.error), 503);
}

TEST_F(InferenceServiceTest, IsNotReadyForWorkersOfAnotherModel) {
  v1::GetStatusResponse status;
  status.set_state(v1::GetStatusResponse::STATE_READY);
  status.set_model_digest("another");
  router_.SetStatus(status);
  service_ =
      std::make_unique<InferenceService>(MakeTestModel(), router_.channel(), InferenceService::Options{}, &metrics_);
  EXPECT_TRUE(Eventually([&] { return service_->NotReady().find("another model") != std::string::npos; }));
}

TEST_F(InferenceServiceTest, TellsWhatTheRouterWaitsFor) {
  v1::GetStatusResponse status;
  status.set_state(v1::GetStatusResponse::STATE_LOADING);
  status.set_detail("waiting for 1 of 2 workers");
  router_.SetStatus(status);
  service_ =
      std::make_unique<InferenceService>(MakeTestModel(), router_.channel(), InferenceService::Options{}, &metrics_);
  EXPECT_TRUE(Eventually([&] { return service_->NotReady() == "loading: waiting for 1 of 2 workers"; }));
  EXPECT_EQ(HttpStatus(*RunChat().error), 503);
}

TEST_F(InferenceServiceTest, ABadRequestIsToldAtOnceWhateverTheState) {
  service_ =
      std::make_unique<InferenceService>(MakeTestModel(), router_.channel(), InferenceService::Options{}, &metrics_);
  const Outcome outcome = RunChat({.temperature = 3});
  EXPECT_EQ(outcome.error->param, "temperature");
  EXPECT_EQ(Metric(R"(braid_requests_total{door="http",outcome="invalid_argument"})"), 1);
}

TEST_F(InferenceServiceTest, EchoesThePromptWithScoresBeforeTheAnswer) {
  router_.SetScript([](grpc::ServerContext*, const Request& request, Writer* writer) {
    EXPECT_TRUE(request.want_prompt_logprobs());
    FakeRouter::Accept(writer);
    v1::GenerateSequenceResponse scores;
    scores.mutable_prompt_logprobs()->set_position(1);
    for (float logprob : {-1.f, -2.f}) {
      v1::TokenLogprob* token = scores.mutable_prompt_logprobs()->add_logprobs();
      token->set_token(logprob == -1.f ? 'h' : 'i');
      token->set_logprob(logprob);
    }
    writer->Write(scores);
    v1::GenerateSequenceResponse tokens;
    tokens.mutable_tokens()->add_tokens('!');
    tokens.mutable_tokens()->add_logprobs()->set_logprob(-3);
    tokens.mutable_tokens()->mutable_logprobs(0)->set_token('!');
    writer->Write(tokens);
    return FakeRouter::Finish(writer, v1::SequenceFinished::REASON_LENGTH);
  });
  Start();
  CompletionRequest request;
  request.prompts = {"hi"};
  request.echo = true;
  request.params.max_tokens = 1;
  request.params.logprobs = true;
  Events events;
  const auto call = Complete(&events, request);
  const auto told = events.WaitForEnd();
  ASSERT_GE(told.size(), 3u);
  const EchoedPrompt& echo = std::get<EchoedPrompt>(told[1]);
  EXPECT_EQ(echo.text, "hi");
  ASSERT_THAT(echo.logprobs, SizeIs(3));
  EXPECT_TRUE(std::isnan(echo.logprobs[0].logprob));
  EXPECT_EQ(echo.logprobs[2].logprob, -2);
  EXPECT_EQ(echo.logprobs[2].bytes, "i");
  const Delta& delta = std::get<Delta>(told[2]);
  EXPECT_EQ(delta.text, "!");
  ASSERT_THAT(delta.logprobs, SizeIs(1));
  EXPECT_EQ(delta.logprobs[0].logprob, -3);
}

TEST_F(InferenceServiceTest, SurvivesACancelStorm) {
  router_.SetScript([](grpc::ServerContext* context, const Request&, Writer* writer) {
    FakeRouter::Accept(writer);
    for (size_t at = 0; at < 20 && !context->IsCancelled(); ++at) FakeRouter::Tokens(writer, at, {'a'});
    return FakeRouter::Finish(writer, v1::SequenceFinished::REASON_LENGTH);
  });
  Start();
  for (int round = 0; round < 5; ++round) {
    std::vector<std::unique_ptr<Events>> events;
    std::vector<std::variant<ApiError, std::unique_ptr<Call>>> calls;
    for (int i = 0; i < 20; ++i) {
      events.push_back(std::make_unique<Events>());
      calls.push_back(Chat(events.back().get(), {.n = 2}));
    }
    calls.clear();
  }
  EXPECT_TRUE(service_->WaitUntilIdle(absl::Seconds(10)));
}

}  // namespace
}  // namespace braid
