#include "expert_worker/exchange/ucx.h"

#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"
#include "expert_worker/exchange/frame.h"
#include "expert_worker/exchange/peer_process.h"

// One ucp_worker per epoch: after the death of a peer on shared memory a kept worker may hold a poisoned receive queue.
// We drive progress ourselves and look at everything that can end a wait: the requests, the abort flag, endpoints that
// reported an error, the deadline. A tagged receive belongs to no endpoint and never fails by itself when its peer
// dies, hence the flag per peer that UCX's error callback sets, and beside it our own look at the peer's process.
//
// Tags are (epoch, source) and are matched in full, so a stray message of an old epoch is never taken for one of ours.
// The phase is not part of the tag: messages of one source stay in order, and one of another phase is then seen at once
// by its header instead of at the deadline.

namespace braid {
namespace {

// Wakes up this often even without an event: UCX's own keepalive needs progress to be called.
constexpr absl::Duration kPollMax = absl::Milliseconds(20);
// Phases of Connect, which no step uses.
constexpr uint64_t kConnecting = ~uint64_t{0} - 1, kConnected = ~uint64_t{0};
constexpr ucp_tag_t kFullMask = ~ucp_tag_t{0};

constexpr char kEnded[] = "its process has ended";

std::string Explain(ucs_status_t status) { return ucs_status_string(status); }

ucp_tag_t TagOf(uint64_t epoch, int source) { return epoch << 16 | static_cast<ucp_tag_t>(source); }

class Context {
 public:
  explicit Context(ucp_context_h handle) : handle_(handle) {}
  ~Context() { ucp_cleanup(handle_); }
  Context(const Context&) = delete;
  ucp_context_h get() const { return handle_; }

 private:
  ucp_context_h handle_;
};

absl::StatusOr<std::unique_ptr<Context>> OpenContext(const UcxOptions& options) {
  ucp_config_t* config = nullptr;
  if (ucs_status_t status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
    return absl::UnavailableError("ucx: cannot read its configuration: " + Explain(status));
  }
  std::vector<std::pair<const char*, std::string>> settings = {
      {"TLS", options.transports},
      {"RNDV_THRESH", "256k"},         // below it eager messages are several times faster
      {"KEEPALIVE_INTERVAL", "500ms"}  // how UCX notices a dead peer on shared memory; the default is 20 s
  };
  // Else peers on one host silently fall back to tcp. (UCX_POSIX_ERROR_HANDLING is known in the environment only; this
  // is its name for ucp_config_modify.) Without posix it would be warned about.
  if (options.transports.find("posix") != std::string::npos) settings.push_back({"MM_ERROR_HANDLING", "y"});
  ucs_status_t status = UCS_OK;
  std::string failed = "init";
  for (const auto& [name, value] : settings) {
    if (status != UCS_OK) break;
    status = ucp_config_modify(config, name, value.c_str());
    failed = fmt::format("{}={}", name, value);
  }
  ucp_context_h handle = nullptr;
  if (status == UCS_OK) {
    ucp_params_t params = {};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP;
    status = ucp_init(&params, config, &handle);
    failed = "init with transports " + options.transports;
  }
  ucp_config_release(config);
  if (status != UCS_OK) return absl::UnavailableError(fmt::format("ucx: {}: {}", failed, Explain(status)));
  return std::make_unique<Context>(handle);
}

// Memory for one frame; pages cost nothing until they are written.
class Slot {
 public:
  explicit Slot(size_t bytes) : memory_(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}))) {}
  std::byte* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
};

// One request of UCX: null (done at once), an error, or a handle that is polled and freed.
class Request {
 public:
  void Start(ucs_status_ptr_t pointer) {
    handle_ = UCS_PTR_IS_PTR(pointer) ? pointer : nullptr;
    status_ = UCS_PTR_IS_PTR(pointer) ? UCS_INPROGRESS : UCS_PTR_STATUS(pointer);
  }
  ucs_status_t Poll() {
    if (handle_ && (status_ = ucp_request_check_status(handle_)) != UCS_INPROGRESS) Free();
    return status_;
  }
  ucs_status_t PollReceive(ucp_tag_recv_info_t* info) {
    if (handle_ && (status_ = ucp_tag_recv_request_test(handle_, info)) != UCS_INPROGRESS) Free();
    return status_;
  }
  bool pending() const { return handle_ != nullptr; }
  void Cancel(ucp_worker_h worker) { ucp_request_cancel(worker, handle_); }
  // UCX frees a released request itself when it completes.
  void Free() {
    ucp_request_free(handle_);
    handle_ = nullptr;
  }

 private:
  void* handle_ = nullptr;
  ucs_status_t status_ = UCS_OK;
};

// Where the exchange is, for whoever asks from another thread. A sequence lock: the version is odd while a phase is
// being entered, so that nobody takes the wait of one phase for that of another, and who exchanges never waits for who
// asks.
class PhaseClock {
 public:
  explicit PhaseClock(int size) : missing_(size) {}

  void Enter(uint64_t phase, int self) {
    const uint64_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    phase_.store(phase, std::memory_order_release);
    entered_ns_.store(absl::GetCurrentTimeNanos(), std::memory_order_release);
    for (int rank = 0; rank < static_cast<int>(missing_.size()); ++rank) {
      missing_[rank].store(rank != self, std::memory_order_release);
    }
    version_.store(version + 2, std::memory_order_release);
  }
  void Arrived(int rank) { missing_[rank].store(false, std::memory_order_release); }
  void Leave() { entered_ns_.store(0, std::memory_order_release); }

  ExchangeProgress Read() const {
    for (;;) {
      const uint64_t version = version_.load(std::memory_order_acquire);
      ExchangeProgress progress = {.phase = phase_.load(std::memory_order_acquire)};
      const int64_t entered_ns = entered_ns_.load(std::memory_order_acquire);
      if (entered_ns != 0) {
        progress.waited = absl::Nanoseconds(absl::GetCurrentTimeNanos() - entered_ns);
        for (int rank = 0; rank < static_cast<int>(missing_.size()); ++rank) {
          if (missing_[rank].load(std::memory_order_acquire)) progress.waiting_for.push_back(rank);
        }
      }
      if (version % 2 == 0 && version_.load(std::memory_order_acquire) == version) return progress;
    }
  }

 private:
  std::atomic<uint64_t> version_{0};
  std::atomic<uint64_t> phase_{0};
  std::atomic<int64_t> entered_ns_{0};  // 0: the phase is over
  std::vector<std::atomic<bool>> missing_;
};

struct Peer {
  ucp_ep_h endpoint = nullptr;
  ucs_status_t error = UCS_OK;  // what the error callback said
  int process_fd = -1;          // readable once its process has ended; -1: not known
  bool ended = false;
  std::unique_ptr<Slot> out, in;
  Request send, receive;
  ucp_tag_recv_info_t received = {};
};

void OnEndpointError(void* peer, ucp_ep_h, ucs_status_t status) { static_cast<Peer*>(peer)->error = status; }

class UcxExchange : public HostExchange {
 public:
  UcxExchange(std::unique_ptr<Context> context, const ExchangeOptions& options, absl::Duration spin)
      : context_(std::move(context)), options_(options), spin_(spin), peers_(options.size), phases_(options.size) {}

  ~UcxExchange() override {
    if (worker_) CloseAll();
    for (const Peer& peer : peers_) {
      if (peer.process_fd >= 0) close(peer.process_fd);
    }
    if (abort_fd_ >= 0) close(abort_fd_);
  }

  absl::Status Open() {
    abort_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (abort_fd_ < 0) return absl::UnavailableError(fmt::format("eventfd: {}", std::strerror(errno)));
    ucp_worker_params_t params = {};
    params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;
    params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    params.events = UCP_WAKEUP_TAG_SEND | UCP_WAKEUP_TAG_RECV | UCP_WAKEUP_TX | UCP_WAKEUP_RX;
    ucs_status_t status = ucp_worker_create(context_->get(), &params, &worker_);
    if (status == UCS_OK) status = ucp_worker_get_efd(worker_, &worker_fd_);
    ucp_address_t* address = nullptr;
    size_t length = 0;
    if (status == UCS_OK) status = ucp_worker_get_address(worker_, &address, &length);
    if (status != UCS_OK) return absl::UnavailableError("ucx: cannot open a worker: " + Explain(status));
    address_ = EncodeAddress(options_, ProcessTicket().append(reinterpret_cast<const char*>(address), length));
    ucp_worker_release_address(worker_, address);
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

  absl::Status Connect(std::span<const std::string> addresses) override {
    RETURN_IF_ERROR(failure_);
    const absl::Time deadline = absl::Now() + options_.connect_timeout;
    if (static_cast<int>(addresses.size()) != options_.size) {
      return Fail(InvalidArgument(fmt::format("{} addresses for {} ranks", addresses.size(), options_.size)));
    }
    for (int rank = 0; rank < options_.size; ++rank) {
      if (rank == options_.rank) continue;
      if (absl::Status status = ConnectPeer(rank, addresses[rank]); !status.ok()) return Fail(status);
    }
    // UCX connects lazily, by messages of its own that need progress on both sides. The first round starts that, and is
    // over for this rank when its own connections stand. The second round tells so: without it a rank could leave,
    // stop calling progress, and keep a slower peer waiting for the answer to its half of the handshake.
    const std::vector<size_t> nothing(options_.size);
    absl::Status status = Swap(kConnecting, nothing, deadline);
    if (status.ok()) status = Swap(kConnected, nothing, deadline);
    return status.ok() ? status : Fail(status);
  }

  std::span<std::byte> Outgoing(int peer) override {
    return {OutSlot(peer) + sizeof(FrameHeader), options_.message_bytes_max};
  }

  absl::Status AllToAll(uint64_t sequence, std::span<const size_t> bytes) override {
    CHECK_EQ(static_cast<int>(bytes.size()), options_.size);
    RETURN_IF_ERROR(failure_);
    if (absl::Status status = CheckAborted(); !status.ok()) return Fail(status);  // also if all messages are here
    const absl::Time start = absl::Now();
    phases_.Enter(sequence, options_.rank);
    const absl::Status status = Swap(sequence, bytes, start + options_.timeout);
    phases_.Leave();
    waited_ += absl::Now() - start;
    return status.ok() ? status : Fail(status);
  }

  std::span<const std::byte> Incoming(int peer) const override {
    return {peers_[peer].in->data() + sizeof(FrameHeader), peers_[peer].received.length - sizeof(FrameHeader)};
  }

  void Abort(const std::string& reason) override {
    {
      absl::MutexLock lock(&abort_mutex_);
      if (!aborted_) abort_reason_ = reason;
      aborted_ = true;  // last: it is looked at without the lock
    }
    const uint64_t one = 1;
    // Cannot fail in a way that matters: the counter only has to be non-zero, and the wait polls every 20 ms anyway.
    [[maybe_unused]] const ssize_t written = write(abort_fd_, &one, sizeof(one));
  }

  std::vector<int> suspects() const override { return suspects_; }
  absl::Duration waited() const override { return waited_; }
  ExchangeProgress progress() const override { return phases_.Read(); }

 private:
  size_t slot_bytes() const { return sizeof(FrameHeader) + options_.message_bytes_max; }

  std::byte* OutSlot(int rank) {
    if (!peers_[rank].out) peers_[rank].out = std::make_unique<Slot>(slot_bytes());
    return peers_[rank].out->data();
  }

  template <typename Visit>
  void ForEachPeer(const Visit& visit) {
    for (int rank = 0; rank < options_.size; ++rank) {
      if (rank != options_.rank) visit(rank, peers_[rank]);
    }
  }

  absl::Status Fail(const absl::Status& status) {
    failure_ = status;
    return status;
  }

  absl::Status Accuse(int rank, const absl::Status& status) {
    suspects_.push_back(rank);
    return status;
  }

  absl::Status ConnectPeer(int rank, const std::string& address) {
    ASSIGN_OR_RETURN(std::string_view remote, DecodeAddress(address, options_, rank));
    if (remote.size() <= ProcessTicketBytes()) {
      return InvalidArgument(fmt::format("address of rank {}: too short", rank));
    }
    const ProcessWatch watch = WatchProcess(remote.substr(0, ProcessTicketBytes()));
    remote.remove_prefix(ProcessTicketBytes());
    peers_[rank].process_fd = watch.fd;
    if (watch.ended) return Accuse(rank, absl::UnavailableError(fmt::format("rank {} is gone: {}", rank, kEnded)));
    ucp_ep_params_t params = {};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(remote.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = &OnEndpointError;
    params.err_handler.arg = &peers_[rank];
    const ucs_status_t status = ucp_ep_create(worker_, &params, &peers_[rank].endpoint);
    if (status == UCS_OK) return absl::OkStatus();
    peers_[rank].endpoint = nullptr;
    const char* remedy =
        status == UCS_ERR_UNREACHABLE ? "; no transport that both allow (--ucx-transports) joins them" : "";
    return Accuse(
        rank, absl::UnavailableError(fmt::format("rank {} cannot be reached: {}{}", rank, Explain(status), remedy)));
  }

  absl::Status Swap(uint64_t sequence, std::span<const size_t> bytes, absl::Time deadline) {
    PostReceives();
    PostSends(sequence, bytes);
    RETURN_IF_ERROR(Wait(deadline));
    return CheckReceived(sequence);
  }

  void PostReceives() {
    ForEachPeer([&](int rank, Peer& peer) {
      if (!peer.in) peer.in = std::make_unique<Slot>(slot_bytes());
      ucp_request_param_t params = {};
      // Always a request, also if the message is here already: only a request tells its length reliably.
      params.op_attr_mask = UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
      peer.receive.Start(
          ucp_tag_recv_nbx(worker_, peer.in->data(), slot_bytes(), TagOf(options_.epoch, rank), kFullMask, &params));
    });
  }

  void PostSends(uint64_t sequence, std::span<const size_t> bytes) {
    ForEachPeer([&](int rank, Peer& peer) {
      CHECK_LE(bytes[rank], options_.message_bytes_max);
      const FrameHeader header = MakeFrameHeader(options_, sequence, bytes[rank]);
      std::memcpy(OutSlot(rank), &header, sizeof(header));
      const ucp_request_param_t params = {};
      peer.send.Start(ucp_tag_send_nbx(peer.endpoint, peer.out->data(), sizeof(header) + bytes[rank],
                                       TagOf(options_.epoch, options_.rank), &params));
    });
    // A small message is "sent" once UCX has copied it. Until the flush is done it may sit in a full socket's queue,
    // where nobody would push it on while this worker computes.
    const ucp_request_param_t params = {};
    flush_.Start(ucp_worker_flush_nbx(worker_, &params));
  }

  // Waits until every message is sent and received.
  absl::Status Wait(absl::Time deadline) {
    const absl::Time spin_until = absl::Now() + spin_;
    for (;;) {
      bool done = false;
      RETURN_IF_ERROR(PollRequests(&done));
      if (done) return absl::OkStatus();
      RETURN_IF_ERROR(CheckInterrupted(deadline));
      if (ucp_worker_progress(worker_) != 0) continue;
      if (absl::Now() < spin_until) {
        sched_yield();
        continue;
      }
      Sleep(deadline);
    }
  }

  absl::Status PollRequests(bool* done) {
    absl::Status failed;
    *done = true;
    ForEachPeer([&](int rank, Peer& peer) {
      const ucs_status_t sent = peer.send.Poll();
      const bool was_missing = peer.receive.pending();
      const ucs_status_t received = peer.receive.PollReceive(&peer.received);
      if (was_missing && !peer.receive.pending()) phases_.Arrived(rank);
      if (sent == UCS_INPROGRESS || received == UCS_INPROGRESS) *done = false;
      if (!failed.ok()) return;
      if (received != UCS_OK && received != UCS_INPROGRESS) {
        failed = Accuse(rank, absl::DataLossError(fmt::format("message from rank {}: {}", rank, Explain(received))));
      } else if (sent != UCS_OK && sent != UCS_INPROGRESS) {
        failed = Accuse(rank, absl::UnavailableError(fmt::format("rank {} is gone: {}", rank, Explain(sent))));
      }
    });
    // A flush that fails belongs to an endpoint that failed, and that one says so itself.
    if (flush_.Poll() == UCS_INPROGRESS) *done = false;
    return failed;
  }

  absl::Status CheckAborted() {
    if (!aborted_) return absl::OkStatus();
    absl::MutexLock lock(&abort_mutex_);
    return absl::AbortedError(abort_reason_);
  }

  absl::Status CheckInterrupted(absl::Time deadline) {
    RETURN_IF_ERROR(CheckAborted());
    absl::Status failed;
    ForEachPeer([&](int rank, Peer& peer) {
      // A peer that went away behind its message for this phase will be missed in the next one.
      if ((peer.error == UCS_OK && !peer.ended) || !peer.receive.pending() || !failed.ok()) return;
      const std::string why = peer.ended ? kEnded : Explain(peer.error);
      failed = Accuse(rank, absl::UnavailableError(fmt::format("rank {} is gone: {}", rank, why)));
    });
    RETURN_IF_ERROR(failed);
    if (absl::Now() < deadline) return absl::OkStatus();
    ForEachPeer([&](int rank, Peer& peer) {
      if (peer.receive.pending() || peer.send.pending()) suspects_.push_back(rank);
    });
    return absl::DeadlineExceededError(fmt::format("rank {} sent nothing in time", fmt::join(suspects_, ", ")));
  }

  // Until something happens on the worker, an abort, the end of a peer that is waited for, or a moment has passed.
  void Sleep(absl::Time deadline) {
    if (ucp_worker_arm(worker_) == UCS_ERR_BUSY) {
      // Events are pending already. Letting others run first matters a lot when ranks share cores.
      sched_yield();
      return;
    }
    poll_fds_.assign({{worker_fd_, POLLIN, 0}, {abort_fd_, POLLIN, 0}});
    // poll() skips what is negative.
    ForEachPeer([&](int, Peer& peer) {
      poll_fds_.push_back({peer.receive.pending() && !peer.ended ? peer.process_fd : -1, POLLIN, 0});
    });
    const absl::Duration left = std::clamp(deadline - absl::Now(), absl::Milliseconds(1), kPollMax);
    if (poll(poll_fds_.data(), poll_fds_.size(), static_cast<int>(absl::ToInt64Milliseconds(left))) <= 0) return;
    size_t next = 2;
    ForEachPeer([&](int, Peer& peer) { peer.ended |= poll_fds_[next++].revents != 0; });
  }

  absl::Status CheckReceived(uint64_t sequence) {
    absl::Status failed;
    ForEachPeer([&](int rank, Peer& peer) {
      if (!failed.ok()) return;
      failed = CheckFrame({peer.in->data(), peer.received.length}, options_, rank, sequence);
      if (!failed.ok()) suspects_.push_back(rank);
    });
    return failed;
  }

  // Buffers are members and die after the worker, so nothing in flight can write into freed memory.
  void CloseAll() {
    ForEachPeer([&](int, Peer& peer) {
      if (peer.receive.pending()) peer.receive.Cancel(worker_);
    });
    std::vector<Request> closing(peers_.size());
    ForEachPeer([&](int rank, Peer& peer) {
      if (!peer.endpoint) return;
      ucp_request_param_t params = {};
      params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      params.flags = UCP_EP_CLOSE_FLAG_FORCE;
      closing[rank].Start(ucp_ep_close_nbx(peer.endpoint, &params));
    });
    // A rendezvous send to a dead peer may never complete; a few milliseconds are all it is worth.
    const absl::Time give_up = absl::Now() + absl::Milliseconds(5);
    for (bool pending = true; pending && absl::Now() < give_up;) {
      ucp_worker_progress(worker_);
      pending = flush_.Poll() == UCS_INPROGRESS;
      ForEachPeer([&](int rank, Peer& peer) {
        pending |= peer.send.Poll() == UCS_INPROGRESS;
        pending |= peer.receive.PollReceive(&peer.received) == UCS_INPROGRESS;
        pending |= closing[rank].Poll() == UCS_INPROGRESS;
      });
    }
    ForEachPeer([&](int rank, Peer& peer) {
      for (Request* request : {&peer.send, &peer.receive, &closing[rank]}) {
        if (request->pending()) request->Free();
      }
    });
    if (flush_.pending()) flush_.Free();
    ucp_worker_destroy(worker_);
  }

  const std::unique_ptr<Context> context_;  // its own: two exchanges may be used by two threads
  const ExchangeOptions options_;
  const absl::Duration spin_;
  std::vector<Peer> peers_;  // by rank; the own is unused. Never resized: UCX holds pointers into it.
  ucp_worker_h worker_ = nullptr;
  int worker_fd_ = -1;  // belongs to worker_
  int abort_fd_ = -1;
  std::string address_;
  Request flush_;
  std::vector<pollfd> poll_fds_;
  absl::Status failure_;
  std::vector<int> suspects_;
  absl::Duration waited_;
  PhaseClock phases_;

  std::atomic<bool> aborted_ = false;
  absl::Mutex abort_mutex_;
  std::string abort_reason_ ABSL_GUARDED_BY(abort_mutex_);
};

class UcxFactory : public HostExchangeFactory {
 public:
  explicit UcxFactory(const UcxOptions& options) : options_(options) {}

  absl::StatusOr<std::unique_ptr<HostExchange>> PrepareHost(const ExchangeOptions& options) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Context> context, OpenContext(options_));
    auto exchange = std::make_unique<UcxExchange>(std::move(context), options, options_.spin);
    RETURN_IF_ERROR(exchange->Open());
    return exchange;
  }

 private:
  const UcxOptions options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HostExchangeFactory>> MakeUcxExchangeFactory(const UcxOptions& options) {
  RETURN_IF_ERROR(OpenContext(options).status());  // better now than in the first epoch
  return std::make_unique<UcxFactory>(options);
}

}  // namespace braid
