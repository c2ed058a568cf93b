#include "gateway/grpc/door.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "braid/v1/inference.grpc.pb.h"
#include "gateway/audit.h"
#include "gateway/fake_router.h"
#include "gateway/inference_service.h"

namespace braid {
namespace {

using testing::ElementsAre;
using testing::SizeIs;
using Writer = FakeRouter::Writer;

class RememberedAudit final : public Audit {
 public:
  void Record(AuditRecord record) override {
    absl::MutexLock lock(&mutex_);
    records_.push_back(std::move(record));
  }
  std::vector<AuditRecord> records() {
    absl::MutexLock lock(&mutex_);
    return records_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<AuditRecord> records_;
};

std::string Trailer(const grpc::ClientContext& context, const std::string& key) {
  const auto found = context.GetServerTrailingMetadata().find(key);
  if (found == context.GetServerTrailingMetadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

class GrpcDoorTest : public testing::Test {
 protected:
  void Start(GrpcOptions options = {}) {
    options.port = 0;
    options.audit = &audit_;
    service_ =
        std::make_unique<InferenceService>(MakeTestModel(), router_.channel(), InferenceService::Options{}, &metrics_);
    ASSERT_TRUE(Eventually([&] { return service_->NotReady().empty(); }));
    auto door = GrpcDoor::Start(service_->grpc(), options);
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(door_->port()), grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }
  void TearDown() override {
    stub_ = nullptr;
    channel_ = nullptr;
    door_ = nullptr;
    service_ = nullptr;
  }

  static v1::ChatRequest Hello() {
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content("hi");
    return request;
  }
  grpc::Status Chat(grpc::ClientContext* context, const v1::ChatRequest& request,
                    std::vector<v1::ChatResponse>* responses) {
    const auto reader = stub_->Chat(context, request);
    v1::ChatResponse response;
    while (reader->Read(&response)) responses->push_back(response);
    return reader->Finish();
  }

  // The bytes of a HealthCheckResponse: "\x08\x01" is SERVING, "\x08\x02" NOT_SERVING.
  std::string Health() {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice nothing;
    const grpc::ByteBuffer request(&nothing, 1);  // of the whole server
    grpc::ByteBuffer response;
    absl::Notification done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                   [&done](const grpc::Status&) { done.Notify(); });
    done.WaitForNotification();
    grpc::Slice bytes;
    if (!response.DumpToSingleSlice(&bytes).ok()) return "";
    return std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  }

  Metrics metrics_;
  FakeRouter router_;
  RememberedAudit audit_;
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<GrpcDoor> door_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(GrpcDoorTest, StreamsAChat) {
  router_.SetScript(FakeRouter::Answer(AnswerTokens(MakeTestModel(), "<think>hm</think>ok<|im_end|>")));
  Start();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id");
  std::vector<v1::ChatResponse> responses;
  const grpc::Status status = Chat(&context, Hello(), &responses);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::string reasoning, content;
  for (const v1::ChatResponse& response : responses) {
    reasoning += response.reasoning();
    content += response.content();
  }
  EXPECT_EQ(reasoning, "hm");
  EXPECT_EQ(content, "ok");
  ASSERT_GE(responses.size(), 2u);
  EXPECT_EQ(responses[responses.size() - 2].finished().reason(), v1::Finished::REASON_STOP);
  EXPECT_EQ(responses.back().usage().completion_tokens(), 7u);
  EXPECT_EQ(responses.back().usage().reasoning_tokens(), 4u);
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "my-id");
  ASSERT_THAT(audit_.records(), SizeIs(1));
  const AuditRecord record = audit_.records()[0];
  EXPECT_EQ(record.request_id, "my-id");
  EXPECT_EQ(record.status, 200);
  EXPECT_EQ(record.completion_tokens, 7);
  EXPECT_THAT(record.finish_reasons, ElementsAre("stop"));
}

TEST_F(GrpcDoorTest, StreamsACompletionWithItsTokens) {
  router_.SetScript(FakeRouter::Answer({'o', 'k', kImEnd}));
  Start();
  v1::GenerateRequest request;
  request.mutable_tokens()->add_tokens('x');
  request.set_echo(true);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  std::string text;
  std::vector<int32_t> tokens;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    text += response.text().text();
    tokens.insert(tokens.end(), response.text().tokens().begin(), response.text().tokens().end());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "xok");
  EXPECT_THAT(tokens, ElementsAre('o', 'k', kImEnd));
}

TEST_F(GrpcDoorTest, NamesTheFieldOfABadRequest) {
  Start();
  v1::ChatRequest request = Hello();
  request.mutable_options()->set_temperature(3);
  grpc::ClientContext context;
  std::vector<v1::ChatResponse> responses;
  const grpc::Status status = Chat(&context, request, &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Trailer(context, "braid-error-code"), "invalid_value");
  EXPECT_EQ(Trailer(context, "braid-error-param"), "temperature");
  EXPECT_THAT(responses, SizeIs(0));
  EXPECT_EQ(audit_.records()[0].error_code, "invalid_value");
}

TEST_F(GrpcDoorTest, RefusesToolParametersThatAreNoJson) {
  Start();
  for (const std::string& parameters : {std::string("{x"), std::string("[]"), std::string(100'000, '[')}) {
    v1::ChatRequest request = Hello();
    request.add_tools()->set_name("f");
    request.mutable_tools(0)->set_parameters(parameters);
    grpc::ClientContext context;
    std::vector<v1::ChatResponse> responses;
    EXPECT_EQ(Chat(&context, request, &responses).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Trailer(context, "braid-error-param"), "tools[0].function.parameters");
  }
}

TEST_F(GrpcDoorTest, TellsWhenToComeAgain) {
  router_.SetScript([](grpc::ServerContext* context, const v1::GenerateSequenceRequest&, Writer*) {
    context->AddTrailingMetadata("retry-after-ms", "1500");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  });
  Start();
  grpc::ClientContext context;
  std::vector<v1::ChatResponse> responses;
  EXPECT_EQ(Chat(&context, Hello(), &responses).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Trailer(context, "retry-after-ms"), "1500");
}

TEST_F(GrpcDoorTest, ATruncatedAnswerNeverEndsWell) {
  router_.SetScript([](grpc::ServerContext*, const v1::GenerateSequenceRequest&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::Tokens(writer, 0, {'a'});
    return grpc::Status(grpc::StatusCode::INTERNAL, "quarantined");
  });
  Start();
  grpc::ClientContext context;
  std::vector<v1::ChatResponse> responses;
  EXPECT_EQ(Chat(&context, Hello(), &responses).error_code(), grpc::StatusCode::INTERNAL);
  ASSERT_THAT(responses, SizeIs(1));
  EXPECT_EQ(responses[0].content(), "a");
}

TEST_F(GrpcDoorTest, AClientThatGoesAwayCancelsItsSequence) {
  std::atomic<bool> cancelled = false;
  router_.SetScript([&](grpc::ServerContext* context, const v1::GenerateSequenceRequest&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::Tokens(writer, 0, {'a'});
    FakeRouter::WaitForCancel(context);
    cancelled = true;
    return grpc::Status::CANCELLED;
  });
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Chat(&context, Hello());
  v1::ChatResponse response;
  EXPECT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_TRUE(service_->WaitUntilIdle(absl::Seconds(10)));
}

TEST_F(GrpcDoorTest, StoppingEndsCallsInProgress) {
  router_.SetScript([](grpc::ServerContext* context, const v1::GenerateSequenceRequest&, Writer* writer) {
    FakeRouter::Accept(writer);
    FakeRouter::Tokens(writer, 0, {'a'});
    FakeRouter::WaitForCancel(context);
    return grpc::Status::CANCELLED;
  });
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Chat(&context, Hello());
  v1::ChatResponse response;
  EXPECT_TRUE(reader->Read(&response));
  door_->Stop(absl::ZeroDuration());
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(service_->WaitUntilIdle(absl::ZeroDuration())) << "no Call is left after Stop";
}

TEST_F(GrpcDoorTest, AsksForTheKeyIfThereIsOne) {
  Start({.api_key = "sesame"});
  const auto list = [&](const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::ListModelsResponse response;
    return stub_->ListModels(&context, {}, &response).error_code();
  };
  EXPECT_EQ(list("Bearer sesame"), grpc::StatusCode::OK);
  for (const char* wrong : {"", "sesame", "Bearer sesamf", "Bearer sesam", "Bearer sesame2", "bearer  sesame"})
    EXPECT_EQ(list(wrong), grpc::StatusCode::UNAUTHENTICATED) << wrong;
  grpc::ClientContext context;
  std::vector<v1::ChatResponse> responses;
  EXPECT_EQ(Chat(&context, Hello(), &responses).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Trailer(context, "braid-error-code"), "invalid_api_key");
}

TEST_F(GrpcDoorTest, RefusesAMessageBeyondTheLimit) {
  Start({.body_bytes_max = 1 << 20});
  v1::ChatRequest request = Hello();
  request.mutable_messages(0)->set_content(std::string(2 << 20, 'a'));
  grpc::ClientContext context;
  std::vector<v1::ChatResponse> responses;
  EXPECT_EQ(Chat(&context, request, &responses).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcDoorTest, ListsTheModelAndTurnsTextIntoTokensAndBack) {
  Start();
  v1::ListModelsResponse models;
  grpc::ClientContext list;
  ASSERT_TRUE(stub_->ListModels(&list, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).id(), "test-model");
  EXPECT_TRUE(models.models(0).has_chat_template());

  v1::TokenizeRequest request;
  request.set_text("hi");
  v1::TokenizeResponse tokens;
  grpc::ClientContext tokenize;
  ASSERT_TRUE(stub_->Tokenize(&tokenize, request, &tokens).ok());
  EXPECT_THAT(tokens.tokens(), ElementsAre(kBos, 'h', 'i'));
  EXPECT_EQ(tokens.context_tokens_max(), 4096u);

  v1::DetokenizeRequest back;
  back.add_tokens('h');
  v1::DetokenizeResponse text;
  grpc::ClientContext detokenize;
  ASSERT_TRUE(stub_->Detokenize(&detokenize, back, &text).ok());
  EXPECT_EQ(text.text(), "h");
}

TEST_F(GrpcDoorTest, IsHealthyUntilItDrains) {
  Start();
  EXPECT_EQ(Health(), "\x08\x01");
  service_->Drain();
  EXPECT_TRUE(Eventually([&] { return Health() == "\x08\x02"; }));
}

TEST_F(GrpcDoorTest, SaysThatAPortIsTaken) {
  Start();
  GrpcOptions options;
  options.port = door_->port();
  const auto second = GrpcDoor::Start(service_->grpc(), options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(std::to_string(options.port)));
}

}  // namespace
}  // namespace braid
