#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "braid/v1/router.grpc.pb.h"
#include "gateway/core/test_model.h"

namespace braid {

// A router for tests, in the process: says of itself what it is told to, and answers every Generate by a script.
class FakeRouter final : public v1::Router::Service {
 public:
  using Writer = grpc::ServerWriter<v1::GenerateSequenceResponse>;
  // Runs on a thread of its own and may block.
  using Script = std::function<grpc::Status(grpc::ServerContext* context, const v1::GenerateSequenceRequest& request,
                                            Writer* writer)>;

  FakeRouter() {
    status_.set_state(v1::GetStatusResponse::STATE_READY);
    status_.set_model_digest("test-digest");
    status_.set_context_tokens_max(4096);
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
  }
  ~FakeRouter() override {
    channel_ = nullptr;
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }
  void SetScript(Script script) {
    absl::MutexLock lock(&mutex_);
    script_ = std::move(script);
  }
  void SetStatus(const v1::GetStatusResponse& status) {
    absl::MutexLock lock(&mutex_);
    status_ = status;
  }
  std::vector<v1::GenerateSequenceRequest> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }

  static void Accept(Writer* writer) {
    v1::GenerateSequenceResponse response;
    response.mutable_accepted();
    writer->Write(response);
  }
  static void Tokens(Writer* writer, size_t position, const std::vector<TokenId>& tokens) {
    v1::GenerateSequenceResponse response;
    response.mutable_tokens()->set_position(static_cast<uint32_t>(position));
    response.mutable_tokens()->mutable_tokens()->Add(tokens.begin(), tokens.end());
    writer->Write(response);
  }
  static grpc::Status Finish(Writer* writer, v1::SequenceFinished::Reason reason) {
    v1::GenerateSequenceResponse response;
    response.mutable_finished()->set_reason(reason);
    writer->Write(response);
    return grpc::Status::OK;
  }
  static void WaitForCancel(grpc::ServerContext* context) {
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
  }

  // Accepts, goes on behind the tokens that the request already has, and stops after the last of `answer`.
  static Script Answer(std::vector<TokenId> answer) {
    return
        [answer = std::move(answer)](grpc::ServerContext*, const v1::GenerateSequenceRequest& request, Writer* writer) {
          Accept(writer);
          for (size_t at = static_cast<size_t>(request.generated_size()); at < answer.size(); ++at) {
            if (at >= request.max_new_tokens()) return Finish(writer, v1::SequenceFinished::REASON_LENGTH);
            Tokens(writer, at, {answer[at]});
          }
          return Finish(writer, v1::SequenceFinished::REASON_STOP);
        };
  }

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateSequenceRequest* request,
                        Writer* writer) override {
    Script script;
    {
      absl::MutexLock lock(&mutex_);
      requests_.push_back(*request);
      script = script_;
    }
    return script(context, *request, writer);
  }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*, v1::GetStatusResponse* response) override {
    absl::MutexLock lock(&mutex_);
    *response = status_;
    return grpc::Status::OK;
  }

  mutable absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  v1::GetStatusResponse status_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateSequenceRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

// True once `condition` holds; gives up after ten seconds.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace braid
