// The router's rim: a gRPC server whose reactors only hand over, and one thread that feeds what they hand over to the
// core and carries out what the core decides.
//
//    gateways  --Generate-->  GenerateCall --.                               .--> GenerateCall.Send / End
//                                            |--> Inbox --> Run(): core -----|
//    workers   --Attach---->  WorkerStream --'                               '--> WorkerStream.Send / Close

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/logging.h"
#include "base/status.h"
#include "braid/v1/router.grpc.pb.h"
#include "braid/v1/worker.grpc.pb.h"
#include "proto/callback_queue.h"
#include "proto/status.h"
#include "router/generate_call.h"
#include "router/inbox.h"
#include "router/probe.h"
#include "router/router.h"
#include "router/router_core.h"
#include "router/slots.h"
#include "router/validate.h"
#include "router/worker_stream.h"

namespace braid {
namespace {

constexpr int kCallsBeyondQueue = 256;                  // being refused or ended while the queue is full
constexpr int kHostsExpected = 16;                      // where nobody says how many groups there are
constexpr int kStreamsMax = Roster::kAttachedMax + 64;  // and those being sent away
constexpr int kMessageBytesMax = 16 << 20;  // a prompt of a whole context, or a step's results, and to spare
constexpr int kInputsPerRound = 256;        // handled before the core acts
constexpr absl::Duration kCloseGrace = absl::Seconds(5);  // for a worker to read the last words
// For who has not read the end of an answer when the router stops.
constexpr absl::Duration kReadGrace = absl::Seconds(1);

// Gateways and workers ping when they have nothing to say; so do we, to notice a host that vanished.
void SetTransportOptions(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second router on the same port is an error, not a twin
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
}

int CallsMax(const RouterOptions& options) {
  const int groups = options.groups > 0 ? options.groups : kHostsExpected;
  return groups * options.sequences_max + options.queue_max + kCallsBeyondQueue;
}

absl::Status ShuttingDown() { return absl::UnavailableError("the router is shutting down"); }

class RouterServer final : public Router {
 public:
  RouterServer(const RouterOptions& options, Metrics* metrics)
      : options_(options),
        probe_(metrics),
        calls_(CallsMax(options)),
        streams_(kStreamsMax),
        inbox_(static_cast<size_t>(kInputsPerCall * CallsMax(options) + kInputsPerStream * kStreamsMax + kInputsOther)),
        // Unix time: above every epoch of an earlier router, which would have to start one each millisecond.
        core_(options, Epoch(static_cast<uint64_t>(absl::ToUnixMillis(Clock::Real().Now()))), &probe_) {
    core_.FillStatus(&status_);
    not_ready_ = core_.NotReady();
  }

  ~RouterServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen() {
    HoldCallbackQueue();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    SetTransportOptions(builder);
    builder.RegisterService(&gateways_);
    builder.RegisterService(&workers_);
    if (!options_.listen.empty()) {
      builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port_);
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (!options_.listen.empty() && port_ == 0)) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen, "; is the port taken?"));
    }
    server_->GetHealthCheckService()->SetServingStatus(false);
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  std::shared_ptr<grpc::Channel> InProcessChannel() override {
    grpc::ChannelArguments args;
    args.SetMaxReceiveMessageSize(kMessageBytesMax);
    return server_->InProcessChannel(args);
  }

  std::string NotReady() const override {
    absl::MutexLock lock(&status_mutex_);
    return not_ready_;
  }

  std::string Unprotected() const override {
    absl::MutexLock lock(&status_mutex_);
    return status_.unprotected();
  }

  void Shutdown(absl::Duration grace) override {
    std::call_once(shutdown_, [&] {
      if (server_ == nullptr) return;
      if (thread_.joinable()) {
        CHECK(inbox_.TryPush(DrainRequested{}));
        if (drained_.WaitForNotificationWithTimeout(grace)) AwaitLastBytes();
        CHECK(inbox_.TryPush(StopRequested{}));
        stopped_.WaitForNotification();
      }
      // Calls whose peer does not read are cut off.
      server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kReadGrace));
      over_.Notify();
      inbox_.Close();
      if (thread_.joinable()) thread_.join();
    });
  }

 private:
  class Gateways final : public v1::Router::CallbackService {
   public:
    explicit Gateways(RouterServer* router) : router_(router) {}
    grpc::ServerWriteReactor<v1::GenerateSequenceResponse>* Generate(
        grpc::CallbackServerContext* context, const v1::GenerateSequenceRequest* request) override {
      return router_->StartCall(context, *request);
    }
    grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest*,
                                        v1::GetStatusResponse* response) override {
      {
        absl::MutexLock lock(&router_->status_mutex_);
        *response = router_->status_;
      }
      grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
      reactor->Finish(grpc::Status::OK);
      return reactor;
    }

   private:
    RouterServer* const router_;
  };

  class Workers final : public v1::WorkerControl::CallbackService {
   public:
    explicit Workers(RouterServer* router) : router_(router) {}
    grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
        grpc::CallbackServerContext* context) override {
      return router_->StartStream(context);
    }

   private:
    RouterServer* const router_;
  };

  // What has just ended may still be on its way to who asked; a server that shuts down need not wait for that.
  void AwaitLastBytes() const {
    const absl::Time end = Clock::Real().Now() + kReadGrace;
    while (!calls_.all_free() && Clock::Real().Now() < end) absl::SleepFor(absl::Milliseconds(1));
  }

  // On gRPC's threads.

  GenerateCall* StartCall(grpc::CallbackServerContext* context, const v1::GenerateSequenceRequest& request) {
    std::optional<Slots::Slot> slot = calls_.Take();
    if (!slot) {
      return GenerateCall::Refuse(context, absl::ResourceExhaustedError("too many calls; retry later"),
                                  RouterCore::kRetryWhenFull);
    }
    return GenerateCall::Start(context, request, SequenceId(next_sequence_.fetch_add(1)), *std::move(slot), &inbox_);
  }

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* StartStream(grpc::CallbackServerContext* context) {
    std::optional<Slots::Slot> slot = streams_.Take();
    if (!slot) return new RefusedStream;
    return WorkerStream::Start(context, WorkerId(next_worker_.fetch_add(1)), *std::move(slot), &inbox_);
  }

  struct RefusedStream final : grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse> {
    RefusedStream() { Finish(ToGrpc(absl::ResourceExhaustedError("too many workers are attached"))); }
    void OnDone() override { delete this; }
  };

  // On our thread.

  void Run() {
    const absl::Duration tick = std::clamp(options_.heartbeat / 5, absl::Milliseconds(5), absl::Milliseconds(100));
    while (!over_.HasBeenNotified()) {  // whoever still came when it was stopped is sent away, else the server waits
      std::optional<Input> input = inbox_.Pop(std::min(tick, core_.WakeAt() - Clock::Real().Now()));
      const absl::Time now = Clock::Real().Now();
      for (int n = 0; input && n < kInputsPerRound; ++n) {
        std::visit([&](const auto& what) { On(what, now); }, *input);
        input = n + 1 < kInputsPerRound ? inbox_.TryPop() : std::nullopt;
      }
      core_.Advance(now);
      CarryOut(core_.TakeActions(), now);
      AbortLingering(now);
      Publish();
    }
  }

  void On(const CallStarted& input, absl::Time now) {
    sequences_.emplace(input.call->id(), input.call);
    core_.OnGenerate(input.call->id(), input.call->request(), now);
  }
  void On(const CallCancelled& input, absl::Time now) {
    sequences_.erase(input.call->id());
    core_.OnCancel(input.call->id());
  }
  void On(const WorkerOpened& input, absl::Time now) {
    if (stopping_) return input.stream->Close(ShuttingDown());
    attached_.emplace(input.stream->id(), input.stream);
    core_.OnWorkerOpened(input.stream->id(), now);
    input.stream->Read();
  }
  void On(const WorkerSpoke& input, absl::Time now) {
    core_.OnWorkerMessage(input.stream->id(), input.stream->incoming(), now);
    input.stream->Read();
  }
  void On(const WorkerEnded& input, absl::Time now) {
    attached_.erase(input.stream->id());
    core_.OnWorkerLost(input.stream->id(), now);
    input.stream->Close(absl::OkStatus());
  }
  void On(const DrainRequested&, absl::Time now) {
    core_.Drain();
    draining_ = true;
  }
  void On(const StopRequested&, absl::Time now) {
    core_.Stop(ShuttingDown(), now);
    stopping_ = true;
  }

  // Workers first: they compute the next step while the tokens of the last one go out.
  void CarryOut(std::vector<Action> actions, absl::Time now) {
    for (const bool to_workers : {true, false}) {
      for (Action& action : actions) {
        const bool to_worker =
            std::holds_alternative<SendToWorker>(action) || std::holds_alternative<CloseWorker>(action);
        if (to_worker == to_workers) std::visit([&](auto& what) { Do(what, now); }, action);
      }
    }
  }
  void Do(SendToWorker& action, absl::Time now) {
    auto found = attached_.find(action.worker);
    if (found != attached_.end()) found->second->Send(std::move(action.message));
  }
  void Do(CloseWorker& action, absl::Time now) {
    auto found = attached_.find(action.worker);
    if (found == attached_.end()) return;
    found->second->Close(action.status);
    lingering_.emplace_back(now + kCloseGrace, std::move(found->second));
    attached_.erase(found);
  }
  void Do(SendToSequence& action, absl::Time now) {
    auto found = sequences_.find(action.sequence);
    if (found != sequences_.end()) found->second->Send(std::move(action.event));
  }
  void Do(EndSequence& action, absl::Time now) {
    auto found = sequences_.find(action.sequence);
    if (found == sequences_.end()) return;
    found->second->End(action.status, action.retry_after);
    sequences_.erase(found);
  }

  void AbortLingering(absl::Time now) {
    while (!lingering_.empty() && lingering_.front().first <= now) {
      lingering_.front().second->Abort();
      lingering_.pop_front();
    }
  }

  void Publish() {
    std::string not_ready = core_.NotReady();
    {
      absl::MutexLock lock(&status_mutex_);
      core_.FillStatus(&status_);
      if (not_ready_.empty() != not_ready.empty()) {
        server_->GetHealthCheckService()->SetServingStatus(not_ready.empty());
      }
      not_ready_ = std::move(not_ready);
    }
    if (draining_ && core_.idle() && !drained_.HasBeenNotified()) drained_.Notify();
    if (stopping_ && !stopped_.HasBeenNotified()) stopped_.Notify();
  }

  const RouterOptions options_;
  RouterProbe probe_;
  Slots calls_, streams_;
  Inbox inbox_;
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<uint32_t> next_worker_{1};

  // Our thread's.
  RouterCore core_;
  absl::flat_hash_map<SequenceId, std::shared_ptr<GenerateCall>> sequences_;
  absl::flat_hash_map<WorkerId, std::shared_ptr<WorkerStream>> attached_;
  std::deque<std::pair<absl::Time, std::shared_ptr<WorkerStream>>> lingering_;  // closed; aborted when their time comes
  bool draining_ = false, stopping_ = false;

  mutable absl::Mutex status_mutex_;
  v1::GetStatusResponse status_ ABSL_GUARDED_BY(status_mutex_);
  std::string not_ready_ ABSL_GUARDED_BY(status_mutex_);

  std::once_flag shutdown_;
  absl::Notification drained_, stopped_, over_;
  int port_ = 0;
  Gateways gateways_{this};
  Workers workers_{this};
  std::unique_ptr<grpc::Server> server_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Router>> Router::Start(const RouterOptions& options, Metrics* metrics) {
  RETURN_IF_ERROR(CheckOptions(options));
  auto router = std::make_unique<RouterServer>(options, metrics);
  RETURN_IF_ERROR(router->Listen());
  return router;
}

}  // namespace braid
