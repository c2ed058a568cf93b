#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gateway/inference.h"

namespace braid {

// For tests of the doors: an inference whose calls the test plays by hand. Thread-safe.
class FakeInference : public Inference {
 public:
  // A call as the test sees it. Outlives the Call.
  class Live {
   public:
    // False once the call was destroyed: nothing is delivered any more.
    bool Send(CallEvent event) {
      absl::MutexLock lock(&mutex_);
      if (sink_) sink_(std::move(event));
      return sink_ != nullptr;
    }
    void AwaitDestroyed() {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Sink* sink) { return *sink == nullptr; }, &sink_));
    }

    ChatRequest chat;
    CompletionRequest completion;
    std::string request_id;

   private:
    friend class FakeInference;
    void Destroy() {
      absl::MutexLock lock(&mutex_);
      sink_ = nullptr;
    }
    absl::Mutex mutex_;
    Sink sink_;
  };

  using Result = std::variant<ApiError, std::unique_ptr<Call>>;
  Result StartChat(ChatRequest request, const std::string& request_id, Sink sink) override {
    auto live = std::make_shared<Live>();
    live->chat = std::move(request);
    return Start(std::move(live), request_id, std::move(sink));
  }
  Result StartCompletion(CompletionRequest request, const std::string& request_id, Sink sink) override {
    auto live = std::make_shared<Live>();
    live->completion = std::move(request);
    return Start(std::move(live), request_id, std::move(sink));
  }
  std::variant<ApiError, std::vector<TokenId>> Tokenize(const std::string&, const std::string& text,
                                                        bool bos) override {
    std::vector<TokenId> tokens(text.begin(), text.end());
    if (bos) tokens.insert(tokens.begin(), 1);
    return tokens;
  }
  std::variant<ApiError, std::vector<TokenId>> TokenizeChat(const ChatRequest& request) override {
    return std::vector<TokenId>(request.messages.size(), 7);
  }
  std::variant<ApiError, std::string> Detokenize(const std::string&, const std::vector<int64_t>& tokens) override {
    return std::string(tokens.begin(), tokens.end());
  }
  ModelInfo model() const override {
    return {"org/m", "sha256:0123456789abcdef", 7, 4096, true, "cuda bf16 fast", "int8"};
  }
  std::string NotReady() const override {
    absl::MutexLock lock(&mutex_);
    return not_ready_;
  }

  std::string Unprotected() const override {
    absl::MutexLock lock(&mutex_);
    return unprotected_;
  }

  void SetUnprotected(std::string what) {
    absl::MutexLock lock(&mutex_);
    unprotected_ = std::move(what);
  }
  void SetNotReady(std::string why) {
    absl::MutexLock lock(&mutex_);
    not_ready_ = std::move(why);
  }
  // Calls are refused at once with this.
  void Refuse(ApiError error) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(error);
  }
  // The next started call, in order; waits for it.
  std::shared_ptr<Live> NextCall() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](std::deque<std::shared_ptr<Live>>* calls) { return !calls->empty(); }, &calls_));
    auto live = std::move(calls_.front());
    calls_.pop_front();
    return live;
  }

 private:
  struct FakeCall : Call {
    explicit FakeCall(std::shared_ptr<Live> l) : live(std::move(l)) {}
    ~FakeCall() override { live->Destroy(); }
    std::shared_ptr<Live> live;
  };

  Result Start(std::shared_ptr<Live> live, const std::string& request_id, Sink sink) {
    live->request_id = request_id;
    live->sink_ = std::move(sink);
    absl::MutexLock lock(&mutex_);
    if (refusal_) return *refusal_;
    calls_.push_back(live);
    return std::make_unique<FakeCall>(live);
  }

  mutable absl::Mutex mutex_;
  std::string not_ready_, unprotected_;
  std::optional<ApiError> refusal_;
  std::deque<std::shared_ptr<Live>> calls_;
};

}  // namespace braid
