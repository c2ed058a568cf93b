#include "gateway/router_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "base/logging.h"
#include "base/status.h"
#include "proto/callback_queue.h"
#include "proto/status.h"

namespace braid {
namespace {

constexpr absl::Duration kPollPeriodReady = absl::Seconds(1);
constexpr absl::Duration kPollPeriodNotReady = absl::Milliseconds(250);
constexpr absl::Duration kPollTimeout = absl::Seconds(2);

std::optional<absl::Duration> RetryAfter(const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find("retry-after-ms");
  int64_t ms = 0;
  if (found == trailers.end() || !absl::SimpleAtoi(std::string(found->second.data(), found->second.size()), &ms))
    return std::nullopt;
  return absl::Milliseconds(ms);
}

}  // namespace

std::shared_ptr<grpc::Channel> ConnectToRouter(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // also how long one attempt to connect may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // streams that wait for tokens are silent
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);                // we know better when a sequence may be sent again
  args.SetMaxReceiveMessageSize(64 << 20);                // prompt logprobs of a whole context
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

// One sequence over all its attempts. The log and the listener are touched by one attempt at a time (the next starts
// when the last is done), so the mutex guards only what cancelling needs.
class RouterClient::Flow : public std::enable_shared_from_this<Flow> {
 public:
  Flow(RouterClient* client, v1::GenerateSequenceRequest request, absl::Time deadline,
       std::weak_ptr<SequenceListener> listener, int choice)
      : client_(client),
        log_(std::move(request)),
        deadline_(deadline),
        listener_(std::move(listener)),
        choice_(choice) {}

  void Start();
  void Cancel();

  // False if the attempt is of no use any more.
  bool OnResponse(const v1::GenerateSequenceResponse& response);
  void OnEnd(const absl::Status& status, std::optional<absl::Duration> retry_after);

 private:
  bool cancelled() const {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }
  void Fail(const absl::Status& status, std::optional<absl::Duration> retry_after);
  void StartAgainAfter(absl::Duration delay);

  RouterClient* const client_;
  SequenceLog log_;
  const absl::Time deadline_;
  const std::weak_ptr<SequenceListener> listener_;
  const int choice_;
  bool failed_ = false;

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // of the running attempt
};

// One Generate RPC. Owns itself from Start() to OnDone().
class RouterClient::Attempt final : public grpc::ClientReadReactor<v1::GenerateSequenceResponse> {
 public:
  Attempt(RouterClient* client, std::shared_ptr<Flow> flow, uint64_t id, std::shared_ptr<grpc::ClientContext> context,
          v1::GenerateSequenceRequest request)
      : client_(client), flow_(std::move(flow)), id_(id), context_(std::move(context)), request_(std::move(request)) {}

  void Start() {
    client_->stub_->async()->Generate(context_.get(), &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (flow_->OnResponse(response_)) {
      StartRead(&response_);
    } else {
      context_->TryCancel();
    }
  }

  void OnDone(const grpc::Status& status) override {
    flow_->OnEnd(FromGrpc(status), RetryAfter(*context_));
    RouterClient* const client = client_;
    const uint64_t id = id_;
    delete this;  // and with it our hold on the channel, before the client may go away
    client->Unregister(id);
  }

 private:
  RouterClient* const client_;
  const std::shared_ptr<Flow> flow_;
  const uint64_t id_;
  const std::shared_ptr<grpc::ClientContext> context_;
  const v1::GenerateSequenceRequest request_;
  v1::GenerateSequenceResponse response_;
};

void RouterClient::Flow::Start() {
  auto context = std::make_shared<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(deadline_));
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;
    context_ = context;
  }
  const uint64_t id = client_->NextId();
  if (!client_->Register(id, context)) return;
  (new Attempt(client_, shared_from_this(), id, std::move(context), log_.request()))->Start();
}

void RouterClient::Flow::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    context = std::move(context_);
  }
  if (context) context->TryCancel();
}

bool RouterClient::Flow::OnResponse(const v1::GenerateSequenceResponse& response) {
  if (cancelled()) return false;
  absl::StatusOr<SequenceUpdate> update = log_.OnResponse(response);
  if (!update.ok()) {
    Fail(update.status(), std::nullopt);
    return false;
  }
  if (const auto listener = listener_.lock()) listener->OnUpdate(choice_, *std::move(update));
  return true;
}

void RouterClient::Flow::OnEnd(const absl::Status& status, std::optional<absl::Duration> retry_after) {
  {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
    if (cancelled_ || failed_) return;
  }
  const SequenceLog::Next next = log_.OnEnd(status);
  if (const auto* delay = std::get_if<absl::Duration>(&next)) StartAgainAfter(*delay);
  if (const auto* failure = std::get_if<absl::Status>(&next)) Fail(*failure, retry_after);
}

void RouterClient::Flow::Fail(const absl::Status& status, std::optional<absl::Duration> retry_after) {
  failed_ = true;
  if (const auto listener = listener_.lock()) listener->OnFailed(choice_, status, retry_after);
}

void RouterClient::Flow::StartAgainAfter(absl::Duration delay) {
  if (absl::Now() + delay >= deadline_) {
    Fail(absl::DeadlineExceededError("the router did not come back in time"), std::nullopt);
    return;
  }
  if (const auto listener = listener_.lock()) listener->OnResubmitted();
  client_->timers_.After(delay, [self = shared_from_this()] { self->Start(); });
}

namespace {

// What Generate hands out: cancels when it goes.
template <typename Flow>
class Handle final : public RouterClient::Sequence {
 public:
  explicit Handle(std::shared_ptr<Flow> flow) : flow_(std::move(flow)) {}
  ~Handle() override { flow_->Cancel(); }

 private:
  const std::shared_ptr<Flow> flow_;
};

}  // namespace

std::unique_ptr<RouterClient::Sequence> RouterClient::Generate(v1::GenerateSequenceRequest request, absl::Time deadline,
                                                               std::weak_ptr<SequenceListener> listener, int choice) {
  auto flow = std::make_shared<Flow>(this, std::move(request), deadline, std::move(listener), choice);
  flow->Start();
  return std::make_unique<Handle<Flow>>(std::move(flow));
}

RouterClient::RouterClient(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), stub_(v1::Router::NewStub(channel_)) {
  HoldCallbackQueue();
  StartPoll();
}

RouterClient::~RouterClient() {
  timers_.Stop();
  std::vector<std::shared_ptr<grpc::ClientContext>> running;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& [id, rpc] : rpcs_)
      if (auto context = rpc.lock()) running.push_back(std::move(context));
  }
  for (const auto& context : running) context->TryCancel();
  running.clear();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](decltype(rpcs_)* rpcs) { return rpcs->empty(); }, &rpcs_));
}

uint64_t RouterClient::NextId() {
  absl::MutexLock lock(&mutex_);
  return ++next_id_;
}

bool RouterClient::Register(uint64_t id, const std::shared_ptr<grpc::ClientContext>& context) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  rpcs_[id] = context;
  return true;
}

void RouterClient::Unregister(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  rpcs_.erase(id);
}

RouterStatus RouterClient::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

struct RouterClient::Poll {
  std::shared_ptr<grpc::ClientContext> context = std::make_shared<grpc::ClientContext>();
  v1::GetStatusRequest request;
  v1::GetStatusResponse response;
};

void RouterClient::StartPoll() {
  const uint64_t id = NextId();
  auto poll = std::make_shared<Poll>();
  poll->context->set_deadline(absl::ToChronoTime(absl::Now() + kPollTimeout));
  if (!Register(id, poll->context)) return;
  stub_->async()->GetStatus(poll->context.get(), &poll->request, &poll->response,
                            [this, id, poll](const grpc::Status& status) mutable {
                              OnPolled(status, poll->response);
                              poll = nullptr;  // see Attempt::OnDone
                              Unregister(id);
                            });
}

void RouterClient::OnPolled(const grpc::Status& status, const v1::GetStatusResponse& response) {
  absl::Duration period = kPollPeriodNotReady;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_ready = status_.not_ready.empty();
    if (!status.ok()) {
      status_.not_ready = "the router does not answer";
    } else {
      const bool ready = response.state() == v1::GetStatusResponse::STATE_READY;
      status_.not_ready = ready ? "" : response.detail().empty() ? "the router is not ready" : response.detail();
      status_.unprotected = response.unprotected();
      status_.model_digest = response.model_digest();
      status_.arithmetic = response.arithmetic();
      status_.kv_type = response.kv_type();
      status_.context_tokens_max = static_cast<int>(std::min<uint32_t>(response.context_tokens_max(), INT32_MAX));
      if (ready) period = kPollPeriodReady;
    }
    if (was_ready != status_.not_ready.empty())
      spdlog::info("router: {}", was_ready ? status_.not_ready : std::string("ready"));
  }
  timers_.After(period, [this] { StartPoll(); });
}

}  // namespace braid
