#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/core/served_model.h"
#include "gateway/core/validate.h"
#include "gateway/inference.h"
#include "gateway/probe.h"
#include "gateway/router_client.h"
#include "monitoring/metrics.h"

namespace braid {

// The gateway behind its doors. Each door gets an Inference of its own, so that requests are counted by door; behind
// them is one model, one router and one set of limits. Thread-safe.
class InferenceService {
 public:
  struct Options {
    int requests_max = 2048;  // in progress, over all doors
    absl::Duration request_timeout = absl::Hours(1);
    int answer_tokens_default = 0;  // of calls without max_tokens; 0: what the context has left
    SharePrefixes share_prefixes = SharePrefixes::kUser;
    std::string api_key;  // of all callers; they share prefixes with no others
  };

  // `metrics` must outlive the service. Polls the router from now on.
  InferenceService(ServedModel model, std::shared_ptr<grpc::Channel> router, Options options, Metrics* metrics);
  // REQUIRES: every Call is destroyed.
  ~InferenceService();

  Inference* http() { return &http_; }
  Inference* grpc() { return &grpc_; }

  std::string NotReady() const;  // empty: ready
  // Refuses new calls from now on.
  void Drain();
  // Waits until no call is in progress; false if `timeout` passes first.
  bool WaitUntilIdle(absl::Duration timeout);

 private:
  class Door final : public Inference {
   public:
    Door(InferenceService* service, std::string name) : service_(service), name_(std::move(name)) {}
    std::variant<ApiError, std::unique_ptr<Call>> StartChat(ChatRequest request, const std::string& request_id,
                                                            Sink sink) override;
    std::variant<ApiError, std::unique_ptr<Call>> StartCompletion(CompletionRequest request,
                                                                  const std::string& request_id, Sink sink) override;
    std::variant<ApiError, std::vector<TokenId>> Tokenize(const std::string& model, const std::string& text,
                                                          bool add_bos) override;
    std::variant<ApiError, std::vector<TokenId>> TokenizeChat(const ChatRequest& request) override;
    std::variant<ApiError, std::string> Detokenize(const std::string& model,
                                                   const std::vector<int64_t>& tokens) override;
    ModelInfo model() const override;
    std::string NotReady() const override { return service_->NotReady(); }
    std::string Unprotected() const override { return service_->router_.status().unprotected; }

   private:
    InferenceService* const service_;
    const std::string name_;
  };

  using Prepared = std::variant<ApiError, PreparedCall>;
  std::variant<ApiError, std::unique_ptr<Call>> Start(const std::string& door, absl::Time arrival, Prepared prepared,
                                                      const std::string& request_id, Inference::Sink sink);
  std::optional<ApiError> Admit();
  void Release();
  std::string RouterNotReady() const;
  CallContext Context() const;
  void Tick();

  const ServedModel model_;
  const Options options_;
  GatewayProbe probe_;
  Door http_, grpc_;
  mutable absl::Mutex mutex_;
  int in_progress_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  RouterClient router_;  // last: its callbacks use all of the above
};

}  // namespace braid
