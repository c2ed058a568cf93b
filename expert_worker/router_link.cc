#include "expert_worker/router_link.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"
#include "proto/status.h"

namespace braid {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(100), kBackoffMax = absl::Milliseconds(500);
// Longer than any step that still goes on.
constexpr absl::Duration kStuckAfter = absl::Minutes(2);
// Until Welcome says better.
constexpr absl::Duration kHeartbeat = absl::Milliseconds(500), kHeartbeatTimeout = absl::Seconds(5);
// Answers that wait for the stream: one per plan and a few more. Full means that the router does not read.
constexpr size_t kOutboxMax = 2 * WorkerProtocol::kPlansWaitingMax;

}  // namespace

struct RouterLink::Session {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>> stream;
  BoundedQueue<v1::AttachRequest> outbox{kOutboxMax};
  absl::Notification over;
  std::atomic<int64_t> heartbeat_ms{absl::ToInt64Milliseconds(kHeartbeat)};
  std::atomic<int64_t> timeout_ms{absl::ToInt64Milliseconds(kHeartbeatTimeout)};
  std::atomic<int64_t> heard_ms{absl::ToUnixMillis(absl::Now())};  // when the router last said something
  std::atomic<bool> silent{false};
  bool welcomed = false;  // of the reading thread

  void Send(v1::AttachRequest message) {
    if (!outbox.TryPush(std::move(message))) context.TryCancel();
  }
};

RouterLink::RouterLink(std::shared_ptr<grpc::Channel> channel, v1::Hello hello, WorkerThreads* threads,
                       WorkerProbe* probe)
    : stub_(v1::WorkerControl::NewStub(channel)),
      hello_(std::move(hello)),
      threads_(threads),
      probe_(probe),
      thread_([this] { Loop(); }) {}

RouterLink::~RouterLink() {
  Leave(absl::ZeroDuration());
  thread_.join();
}

void RouterLink::Leave(absl::Duration grace) {
  absl::MutexLock lock(&mutex_);
  if (!stop_.HasBeenNotified()) stop_.Notify();
  if (session_ && state_.empty()) {
    v1::AttachRequest leaving;
    leaving.mutable_leaving();
    session_->Send(std::move(leaving));
    mutex_.AwaitWithTimeout(absl::Condition(this, &RouterLink::Over), grace);
  }
  if (session_) session_->context.TryCancel();
}

std::string RouterLink::NotAttached() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void RouterLink::SetState(const std::string& state) {
  absl::MutexLock lock(&mutex_);
  if (state != state_ && !state.empty()) spdlog::info("{}", state);
  state_ = state;
}

void RouterLink::Loop() {
  absl::Duration pause = kBackoffMin;
  for (;;) {
    Session session;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_.HasBeenNotified()) break;
      session_ = &session;
    }
    const absl::Status status = RunSession(&session);
    {
      absl::MutexLock lock(&mutex_);
      session_ = nullptr;
    }
    if (stop_.HasBeenNotified()) {
      SetState("left the router");
      continue;
    }
    SetState(fmt::format("no stream to the router: {}", status.ok() ? "it ended" : status.ToString()));
    pause = session.welcomed ? kBackoffMin : std::min(pause * 2, kBackoffMax);
    stop_.WaitForNotificationWithTimeout(pause);
    AwaitStep();
  }
  absl::MutexLock lock(&mutex_);
  over_ = true;
}

// Until then this worker could join no epoch. One that never returns cannot be helped, but the process can be started
// again; and the router, which counts it as a crash, learns that it was one.
void RouterLink::AwaitStep() {
  const absl::Time stuck_at = absl::Now() + kStuckAfter;
  while (!stop_.HasBeenNotified() && !threads_->WaitUntilOutOfStep(absl::Milliseconds(100))) {
    if (absl::Now() < stuck_at) continue;
    spdlog::critical("a step has not returned for {} s; this process ends, so that another one can take its place",
                     absl::ToInt64Seconds(kStuckAfter));
    std::abort();
  }
}

absl::Status RouterLink::RunSession(Session* session) {
  // Waits until there is a connection: connecting needs a thread that waits for it, and a call that failed meanwhile
  // would leave gRPC without one until the next call.
  session->context.set_wait_for_ready(true);
  session->stream = stub_->Attach(&session->context);
  session->heard_ms = absl::ToUnixMillis(absl::Now());
  v1::AttachRequest hello;
  *hello.mutable_hello() = hello_;
  hello.mutable_hello()->set_epoch(threads_->last_served_epoch());
  session->Send(std::move(hello));
  threads_->Attach([session](v1::AttachRequest answer) { session->Send(std::move(answer)); });
  std::thread writer([&] { Write(session); });
  std::thread watcher([&] { Watch(session); });
  Read(session);
  threads_->Detach();  // from here on nobody else uses the session's outbox but Leave, under the lock
  session->over.Notify();
  session->outbox.Close();
  writer.join();
  watcher.join();
  const grpc::Status status = session->stream->Finish();
  if (session->silent) {
    return session->welcomed ? absl::DeadlineExceededError("it was silent for too long")
                             : absl::UnavailableError("it does not answer");
  }
  return FromGrpc(status);
}

void RouterLink::Read(Session* session) {
  v1::AttachResponse message;
  while (session->stream->Read(&message)) {
    session->heard_ms = absl::ToUnixMillis(absl::Now());
    switch (message.message_case()) {
      case v1::AttachResponse::kWelcome:
        OnWelcome(message.welcome(), session);
        break;
      case v1::AttachResponse::kHeartbeat:
        break;
      default:
        if (const absl::Status status = threads_->Post(std::move(message)); !status.ok()) {
          spdlog::error("{}", status.ToString());
          session->context.TryCancel();
        }
    }
    message.Clear();
  }
}

void RouterLink::OnWelcome(const v1::Welcome& welcome, Session* session) {
  // A router that asks for nonsense gets what is sane.
  session->heartbeat_ms = std::clamp<int64_t>(welcome.heartbeat_ms(), 10, 60000);
  session->timeout_ms = std::clamp<int64_t>(welcome.heartbeat_timeout_ms(), 100, 600000);
  session->welcomed = true;
  // At once, and the writer keeps the new pace from here.
  v1::AttachRequest beat;
  *beat.mutable_heartbeat() = threads_->heartbeat();
  session->Send(std::move(beat));
  probe_->attaches.Add();
  spdlog::info("attached to the router as worker {}", welcome.worker_id());
  SetState("");
}

// Answers as they come, and a heartbeat whenever one is due.
void RouterLink::Write(Session* session) {
  absl::Time next_beat = absl::InfiniteFuture();
  while (!session->over.HasBeenNotified()) {
    next_beat = std::min(next_beat, absl::Now() + absl::Milliseconds(session->heartbeat_ms.load()));
    std::optional<v1::AttachRequest> message =
        session->outbox.Pop(std::max(next_beat - absl::Now(), absl::ZeroDuration()));
    if (!message) {
      *message.emplace().mutable_heartbeat() = threads_->heartbeat();
      next_beat = absl::InfiniteFuture();
    }
    if (!session->stream->Write(*message)) break;  // the reader sees the end, too
  }
}

// Not the writer's job: a router that stops reading can block a write.
void RouterLink::Watch(Session* session) {
  while (!session->over.WaitForNotificationWithTimeout(absl::Milliseconds(session->timeout_ms.load() / 8))) {
    const int64_t silence_ms = absl::ToUnixMillis(absl::Now()) - session->heard_ms;
    if (silence_ms < session->timeout_ms) continue;
    session->silent = true;
    session->context.TryCancel();
    return;
  }
}

}  // namespace braid
