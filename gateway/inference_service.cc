#include "gateway/inference_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"
#include "gateway/running_call.h"

namespace braid {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// Below 2^53, so that it survives a client that reads JSON numbers as doubles and sends it back.
uint64_t FreshSeed() {
  std::random_device random;
  return (static_cast<uint64_t>(random()) << 32 | random()) >> 11;
}

class CallHandle final : public Call {
 public:
  explicit CallHandle(std::shared_ptr<RunningCall> call) : call_(std::move(call)) {}
  ~CallHandle() override { call_->Close(); }

 private:
  const std::shared_ptr<RunningCall> call_;
};

}  // namespace

InferenceService::InferenceService(ServedModel model, std::shared_ptr<grpc::Channel> router, Options options,
                                   Metrics* metrics)
    : model_(std::move(model)),
      options_(std::move(options)),
      probe_(metrics, absl::Now()),
      http_(this, "http"),
      grpc_(this, "grpc"),
      router_(std::move(router)) {
  Tick();
}

InferenceService::~InferenceService() {
  absl::MutexLock lock(&mutex_);
  CHECK_EQ(in_progress_, 0) << "calls outlive the service";
}

std::string InferenceService::NotReady() const {
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return "draining";
  }
  const std::string reason = RouterNotReady();
  return reason.empty() ? "" : "loading: " + reason;
}

std::string InferenceService::RouterNotReady() const {
  const RouterStatus status = router_.status();
  if (!status.not_ready.empty()) return status.not_ready;
  if (status.model_digest == model_.digest) return "";
  return "the workers have another model than the gateway; start both with the same file";
}

void InferenceService::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
}

bool InferenceService::WaitUntilIdle(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(
                                     +[](int* count) { return *count == 0; }, &in_progress_),
                                 timeout);
}

void InferenceService::Tick() {
  probe_.Tick(absl::Now());
  router_.timers().After(absl::Seconds(1), [this] { Tick(); });
}

CallContext InferenceService::Context() const {
  CallContext context;
  const int cluster = router_.status().context_tokens_max;
  context.context_tokens_max = cluster > 0 ? std::min(cluster, model_.context_tokens_max) : model_.context_tokens_max;
  context.fresh_seed = FreshSeed();
  context.answer_tokens_default = options_.answer_tokens_default;
  context.share_prefixes = options_.share_prefixes;
  context.api_key = options_.api_key;
  context.date = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  return context;
}

std::optional<ApiError> InferenceService::Admit() {
  if (const std::string reason = NotReady(); !reason.empty())
    return ApiError{absl::StatusCode::kUnavailable, "service_unavailable", "", reason, kRetryAfter};
  absl::MutexLock lock(&mutex_);
  if (in_progress_ >= options_.requests_max)
    return ApiError{absl::StatusCode::kResourceExhausted, "rate_limit_exceeded", "",
                    fmt::format("{} requests are in progress, which is the limit; try again in a moment", in_progress_),
                    kRetryAfter};
  ++in_progress_;
  return std::nullopt;
}

void InferenceService::Release() {
  absl::MutexLock lock(&mutex_);
  --in_progress_;
}

std::variant<ApiError, std::unique_ptr<Call>> InferenceService::Start(const std::string& door, absl::Time arrival,
                                                                      Prepared prepared, const std::string& request_id,
                                                                      Inference::Sink sink) {
  std::optional<ApiError> refusal;
  if (auto* error = std::get_if<ApiError>(&prepared)) refusal = std::move(*error);
  if (!refusal) refusal = Admit();
  if (refusal) {
    probe_.RequestEnded(door, refusal->status);
    return *std::move(refusal);
  }
  probe_.CallBegan();
  const auto on_end = [this, door](absl::StatusCode outcome) {
    probe_.RequestEnded(door, outcome);
    Release();
  };
  auto running = std::make_shared<RunningCall>(
      request_id, arrival, CallFold(model_.tokenizer.get(), std::get<PreparedCall>(std::move(prepared)), FreshSeed()),
      std::move(sink), &probe_, on_end);
  running->Start(&router_, absl::Now() + options_.request_timeout);
  return std::make_unique<CallHandle>(std::move(running));
}

std::variant<ApiError, std::unique_ptr<Call>> InferenceService::Door::StartChat(ChatRequest request,
                                                                                const std::string& request_id,
                                                                                Sink sink) {
  const absl::Time arrival = absl::Now();
  return service_->Start(name_, arrival, PrepareChat(request, service_->model_, service_->Context()), request_id,
                         std::move(sink));
}

std::variant<ApiError, std::unique_ptr<Call>> InferenceService::Door::StartCompletion(CompletionRequest request,
                                                                                      const std::string& request_id,
                                                                                      Sink sink) {
  const absl::Time arrival = absl::Now();
  return service_->Start(name_, arrival, PrepareCompletion(request, service_->model_, service_->Context()), request_id,
                         std::move(sink));
}

std::variant<ApiError, std::vector<TokenId>> InferenceService::Door::Tokenize(const std::string& model,
                                                                              const std::string& text, bool add_bos) {
  return TokenizeText(model, text, add_bos, service_->model_);
}

std::variant<ApiError, std::vector<TokenId>> InferenceService::Door::TokenizeChat(const ChatRequest& request) {
  return TokenizeMessages(request, service_->model_, service_->Context());
}

std::variant<ApiError, std::string> InferenceService::Door::Detokenize(const std::string& model,
                                                                       const std::vector<int64_t>& tokens) {
  return DetokenizeIds(model, tokens, service_->model_);
}

ModelInfo InferenceService::Door::model() const {
  const ServedModel& model = service_->model_;
  const RouterStatus router = service_->router_.status();
  return {.id = model.id,
          .digest = model.digest,
          .created_unix_s = model.created_unix_s,
          .context_tokens_max = model.context_tokens_max,
          .has_chat_template = model.chat_template.ok(),
          .arithmetic = router.arithmetic,
          .kv_type = router.kv_type};
}

}  // namespace braid
