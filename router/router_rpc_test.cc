#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/status.h"
#include "braid/v1/router.grpc.pb.h"
#include "braid/v1/worker.grpc.pb.h"
#include "router/fake_worker.h"
#include "router/router.h"

namespace braid {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

// A FakeWorker on a stream of its own, served by a thread of its own.
class AttachedWorker {
 public:
  // Breaks its stream instead of answering step `breaks_at`, if that is not 0.
  AttachedWorker(const std::shared_ptr<grpc::Channel>& channel, const std::string& name, uint64_t breaks_at = 0,
                 uint64_t kv_blocks = 1000)
      : worker_(name, kv_blocks), breaks_at_(breaks_at), stub_(v1::WorkerControl::NewStub(channel)) {
    SetDeadline(context_);
    thread_ = std::thread([this] { Serve(); });
  }
  ~AttachedWorker() {
    context_.TryCancel();
    WaitForEnd();
    EXPECT_THAT(worker_.complaints(), IsEmpty());
  }

  void WaitForEnd() {
    if (thread_.joinable()) thread_.join();
  }
  // While held, steps are not answered.
  absl::Mutex& pause() ABSL_LOCK_RETURNED(pause_) { return pause_; }
  // After WaitForEnd.
  const grpc::Status& status() const { return status_; }

 private:
  void Serve() {
    auto stream = stub_->Attach(&context_);
    bool writable = stream->Write(worker_.SayHello());
    v1::AttachResponse message;
    while (writable && stream->Read(&message)) {
      if (message.has_step_plan() && message.step_plan().step() == breaks_at_) context_.TryCancel();
      std::optional<v1::AttachRequest> answer = worker_.On(message);
      if (answer && answer->has_step_done()) absl::MutexLock lock(&pause_);
      if (answer) writable = stream->Write(*answer);
    }
    status_ = stream->Finish();
  }

  FakeWorker worker_;
  const uint64_t breaks_at_;
  std::unique_ptr<v1::WorkerControl::Stub> stub_;
  grpc::ClientContext context_;
  absl::Mutex pause_;
  grpc::Status status_;
  std::thread thread_;
};

// One Generate call.
class Call {
 public:
  Call(v1::Router::Stub& stub, const v1::GenerateSequenceRequest& request) {
    SetDeadline(context_);
    reader_ = stub.Generate(&context_, request);
  }
  // The next event; false at the end.
  bool Read() {
    if (!reader_->Read(&event)) return false;
    if (event.has_tokens()) {
      EXPECT_EQ(event.tokens().position(), tokens.size());
      tokens.insert(tokens.end(), event.tokens().tokens().begin(), event.tokens().tokens().end());
    }
    accepted |= event.has_accepted();
    finished |= event.has_finished();
    return true;
  }
  grpc::Status ReadAll() {
    while (Read()) {
    }
    return reader_->Finish();
  }
  void Cancel() { context_.TryCancel(); }
  std::string Trailer(const std::string& key) {
    auto found = context_.GetServerTrailingMetadata().find(key);
    return found == context_.GetServerTrailingMetadata().end()
               ? ""
               : std::string(found->second.data(), found->second.size());
  }

  v1::GenerateSequenceResponse event;
  std::vector<TokenId> tokens;
  bool accepted = false;
  bool finished = false;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateSequenceResponse>> reader_;
};

v1::GenerateSequenceRequest NewRequest(const std::vector<TokenId>& prompt, uint32_t max_new_tokens, uint64_t seed = 0) {
  v1::GenerateSequenceRequest request;
  request.mutable_prompt()->Add(prompt.begin(), prompt.end());
  request.set_max_new_tokens(max_new_tokens);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

const std::vector<TokenId> kPrompt = {5, 4, 3, 2, 1};

class RouterRpcTest : public ::testing::Test {
 protected:
  void Start(RouterOptions options) {
    options.listen = "";
    // Generous: the machine that runs the tests may be busy.
    options.heartbeat = absl::Milliseconds(100);
    options.heartbeat_timeout = absl::Seconds(30);
    auto router = Router::Start(options, &metrics_);
    ASSERT_TRUE(router.ok()) << router.status();
    router_ = *std::move(router);
    channel_ = router_->InProcessChannel();
    stub_ = v1::Router::NewStub(channel_);
  }
  v1::GetStatusResponse Status() {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::GetStatusResponse response;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &response).ok());
    return response;
  }
  // Asks until `done`; the calls themselves are what takes the time.
  template <typename Done>
  v1::GetStatusResponse AwaitStatus(const Done& done) {
    v1::GetStatusResponse status = Status();
    while (!done(status)) {
      std::this_thread::yield();
      status = Status();
    }
    return status;
  }
  void AwaitReady() {
    AwaitStatus([](const auto& status) { return status.state() == v1::GetStatusResponse::STATE_READY; });
  }

  Metrics metrics_;
  std::unique_ptr<Router> router_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Router::Stub> stub_;
};

TEST_F(RouterRpcTest, StreamsTheTokensOfTheModel) {
  Start({});
  EXPECT_EQ(router_->NotReady(), "waiting for 1 of 1 workers");
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  EXPECT_EQ(router_->NotReady(), "");
  Call call(*stub_, NewRequest(kPrompt, 200));
  grpc::Status status = call.ReadAll();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(call.accepted && call.finished);
  EXPECT_EQ(call.tokens, FakeWorker::Answer(kPrompt, 0, 200));
}

TEST_F(RouterRpcTest, ServesManyCallsOverTwoWorkers) {
  Start({.workers = 2});
  AttachedWorker a(channel_, "a"), b(channel_, "b");
  AwaitReady();
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([this, i] {
      const std::vector<TokenId> prompt(static_cast<size_t>(1 + 20 * i), i);
      const uint64_t seed = static_cast<uint64_t>(i);
      Call call(*stub_, NewRequest(prompt, 50, seed));
      EXPECT_TRUE(call.ReadAll().ok());
      EXPECT_EQ(call.tokens, FakeWorker::Answer(prompt, seed, 50));
    });
  }
  for (std::thread& client : clients) client.join();
  v1::GetStatusResponse status = AwaitStatus([](const auto& s) { return s.sequences_running() == 0; });
  EXPECT_EQ(status.kv_blocks_used(), 0u);
  EXPECT_EQ(status.kv_blocks_total(), 2000u);
  EXPECT_EQ(status.model_digest(), "fake");
  ASSERT_EQ(status.workers_size(), 2);
  EXPECT_TRUE(status.workers(0).in_epoch());
}

TEST_F(RouterRpcTest, CancellingACallFreesItsMemory) {
  Start({});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  Call call(*stub_, NewRequest(kPrompt, 4000));
  while (call.tokens.empty()) ASSERT_TRUE(call.Read());
  EXPECT_GT(Status().kv_blocks_used(), 0u);
  call.Cancel();
  EXPECT_EQ(call.ReadAll().error_code(), grpc::StatusCode::CANCELLED);
  AwaitStatus([](const auto& s) { return s.sequences_running() == 0 && s.kv_blocks_used() == 0; });
}

TEST_F(RouterRpcTest, AFullQueueRefusesAndSaysWhenToComeAgain) {
  Start({.sequences_max = 1, .queue_max = 1});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  absl::ReleasableMutexLock pause(&worker.pause());
  Call running(*stub_, NewRequest(kPrompt, 3));
  ASSERT_TRUE(running.Read());
  Call waiting(*stub_, NewRequest(kPrompt, 3));
  AwaitStatus([](const auto& s) { return s.sequences_waiting() == 1; });
  Call refused(*stub_, NewRequest(kPrompt, 3));
  EXPECT_EQ(refused.ReadAll().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(refused.accepted);
  EXPECT_EQ(refused.Trailer("retry-after-ms"), "1000");
  pause.Release();
  EXPECT_TRUE(running.ReadAll().ok());
  EXPECT_TRUE(waiting.ReadAll().ok());
}

TEST_F(RouterRpcTest, AWorkerThatBreaksMidwayCostsAPauseAndNoToken) {
  Start({.workers = 2});
  AttachedWorker a(channel_, "a");
  auto b = std::make_unique<AttachedWorker>(channel_, "b", /*breaks_at=*/20);
  AwaitReady();
  Call first(*stub_, NewRequest(kPrompt, 100));
  Call second(*stub_, NewRequest({9, 9}, 100));
  b->WaitForEnd();
  b = std::make_unique<AttachedWorker>(channel_, "b again");
  EXPECT_TRUE(first.ReadAll().ok());
  EXPECT_TRUE(second.ReadAll().ok());
  EXPECT_EQ(first.tokens, FakeWorker::Answer(kPrompt, 0, 100));
  EXPECT_EQ(second.tokens, FakeWorker::Answer({9, 9}, 0, 100));
}

TEST_F(RouterRpcTest, ShuttingDownFinishesWhatRunsAndRefusesTheRest) {
  Start({});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  absl::ReleasableMutexLock pause(&worker.pause());  // else it may have ended before the router is told to
  Call running(*stub_, NewRequest(kPrompt, 50));
  ASSERT_TRUE(running.Read());
  std::thread shutdown([this] { router_->Shutdown(absl::Seconds(60)); });
  AwaitStatus([](const auto& s) { return s.state() == v1::GetStatusResponse::STATE_DRAINING; });
  EXPECT_EQ(router_->NotReady(), "draining");
  Call late(*stub_, NewRequest(kPrompt, 5));
  EXPECT_EQ(late.ReadAll().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(late.Trailer("retry-after-ms"), "");
  pause.Release();
  EXPECT_TRUE(running.ReadAll().ok());
  EXPECT_EQ(running.tokens, FakeWorker::Answer(kPrompt, 0, 50));
  shutdown.join();
  worker.WaitForEnd();
  EXPECT_EQ(worker.status().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RouterRpcTest, WithoutGraceRunningCallsEndAsNotFinished) {
  Start({});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  absl::ReleasableMutexLock pause(&worker.pause());
  Call running(*stub_, NewRequest(kPrompt, 50));
  ASSERT_TRUE(running.Read());
  router_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(running.ReadAll().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(running.finished);
  pause.Release();
}

TEST_F(RouterRpcTest, SendsAwayAWorkerThatComesWhileItShutsDown) {
  for (int round = 0; round < 50; ++round) {  // before, after or while it stops
    Start({});
    const auto stub = v1::WorkerControl::NewStub(channel_);
    grpc::ClientContext context;
    SetDeadline(context);
    const auto stream = stub->Attach(&context);
    if (round % 2 == 0) std::this_thread::yield();
    router_->Shutdown(absl::ZeroDuration());
    v1::AttachResponse message;
    while (stream->Read(&message)) {
    }
    EXPECT_FALSE(stream->Finish().ok());
  }
}

TEST_F(RouterRpcTest, RefusesBadRequestsAndGoesOn) {
  Start({});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  Call bad(*stub_, NewRequest({5, 1000}, 5));
  grpc::Status status = bad.ReadAll();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("prompt[1]"));
  Call good(*stub_, NewRequest(kPrompt, 5));
  EXPECT_TRUE(good.ReadAll().ok());
}

TEST_F(RouterRpcTest, RefusesAWorkerWithAnotherModel) {
  Start({.workers = 2});
  AttachedWorker worker(channel_, "a");
  AwaitStatus([](const auto& s) { return s.workers_size() == 1; });
  std::unique_ptr<v1::WorkerControl::Stub> stub = v1::WorkerControl::NewStub(channel_);
  grpc::ClientContext context;
  SetDeadline(context);
  auto stream = stub->Attach(&context);
  FakeWorker odd("odd");
  odd.hello().set_model_digest("another");
  EXPECT_TRUE(stream->Write(odd.SayHello()));
  v1::AttachResponse message;
  EXPECT_FALSE(stream->Read(&message));
  grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("model_digest"));
}

TEST_F(RouterRpcTest, ASlowReaderGetsEveryTokenInTheEnd) {
  Start({});
  AttachedWorker worker(channel_, "a");
  AwaitReady();
  Call slow(*stub_, NewRequest(kPrompt, 3000));
  ASSERT_TRUE(slow.Read());
  AwaitStatus([](const auto& s) { return s.sequences_running() == 0; });  // done before the second read
  EXPECT_TRUE(slow.ReadAll().ok());
  EXPECT_EQ(slow.tokens, FakeWorker::Answer(kPrompt, 0, 3000));
}

TEST(Router, ListensAndSaysWhetherItIsHealthy) {
  Metrics metrics;
  auto router = Router::Start({.listen = "127.0.0.1:0"}, &metrics);
  ASSERT_TRUE(router.ok()) << router.status();
  ASSERT_GT((*router)->port(), 0);
  auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string((*router)->port()), grpc::InsecureChannelCredentials());
  AttachedWorker worker(channel, "a");
  std::unique_ptr<v1::Router::Stub> stub = v1::Router::NewStub(channel);
  for (bool ready = false; !ready;) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::GetStatusResponse status;
    ASSERT_TRUE(stub->GetStatus(&context, {}, &status).ok());
    ready = status.state() == v1::GetStatusResponse::STATE_READY;
  }
  Call call(*stub, NewRequest(kPrompt, 20));
  EXPECT_TRUE(call.ReadAll().ok());
  EXPECT_EQ(call.tokens, FakeWorker::Answer(kPrompt, 0, 20));
}

TEST(Router, RefusesAPortThatIsTakenAndOptionsThatMakeNoSense) {
  Metrics metrics;
  auto first = Router::Start({.listen = "127.0.0.1:0"}, &metrics);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = "127.0.0.1:" + std::to_string((*first)->port());
  auto second = Router::Start({.listen = address}, &metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(StdView(second.status().message())), HasSubstr(address));
  EXPECT_EQ(Router::Start({.workers = 0}, &metrics).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Router::Start({.heartbeat_timeout = absl::Milliseconds(1)}, &metrics).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace braid
