#include "expert_worker/exchange/nccl_communicator.h"

#include <fmt/format.h>
#include <sched.h>
#include <spdlog/spdlog.h>

#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"

// The thread is detached and holds a share of its communicator, since to close one may take forever: ncclCommAbort
// first tells the kernels to leave, then waits for the graphs that captured the communicator to be destroyed and,
// between GPUs of one machine, may wait for peers to let go of memory. By then nobody has to wait for it any more: the
// failure is known before the abort begins, and the streams run dry at its first step.
//
// NCCL does not say whom it waits for, and between GPUs of one machine does not notice that a peer has died. That is
// what the links are for. They stand before NCCL hears of the others: ranks that do not reach each other would hang in
// its set-up, and to abort that is the least travelled of its ways. Whoever fails keeps its links, silent, until the
// end: the router is to hear of it from the one that failed, ahead of those that see it go.

namespace braid::gpu {
namespace {

// How often the thread looks: a poll() and a call that reads a flag.
constexpr absl::Duration kLookEvery = absl::Milliseconds(2);
// A peer's sockets are closed one after the other, and only that of its link tells who it was.
constexpr absl::Duration kNamePatience = absl::Milliseconds(100);
// To finalize in peace needs all peers; they end the epoch at about the same time, or are gone.
constexpr absl::Duration kPeacePatience = absl::Seconds(1);
constexpr absl::Duration kEndPatience = absl::Seconds(5);

const char* Remedy(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "; if the device itself has failed (nvidia-smi, dmesg), this worker must be started again";
    case ncclSystemError:
      return "; check the size of /dev/shm, NCCL_SOCKET_IFNAME and firewalls between the workers; NCCL_DEBUG=INFO says "
             "more";
    case ncclInvalidUsage:
      return "; every worker needs a GPU of its own (--device cuda:i), and the same version of this program";
    case ncclRemoteError:
      return "; a peer, or the network to it, is gone";
    case ncclInternalError:
      return "; NCCL_DEBUG=INFO says more";
    default:
      return "";
  }
}

}  // namespace

absl::Status NcclError(const char* call, ncclResult_t result, ncclComm_t comm) {
  const char* const last = ncclGetLastError(comm);
  const std::string message = fmt::format("{}: {}{}{}{}", call, ncclGetErrorString(result), last && *last ? ": " : "",
                                          last ? last : "", Remedy(result));
  switch (result) {
    case ncclInvalidUsage:
      return absl::FailedPreconditionError(message);
    case ncclInvalidArgument:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status NcclCommunicator::Init(const ncclUniqueId& id, int size, int rank) {
  const bool watched = !Planted(Bug::kNobodyWatches);
  {
    absl::MutexLock lock(&mutex_);
    watched_ = watched;
    making_ = true;
  }
  if (watched) std::thread([self = shared_from_this()] { self->Watch(); }).detach();
  const absl::Status linked = AwaitLinks();
  ncclComm_t comm = nullptr;
  ncclResult_t result = ncclSuccess;
  if (linked.ok()) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    // Without the lock: the first call in a process reads NCCL's settings and plugins.
    result = ncclCommInitRankConfig(&comm, size, id, rank, &config);
  }
  {
    absl::MutexLock lock(&mutex_);
    comm_ = comm;
    making_ = false;
    if (result != ncclSuccess && result != ncclInProgress) FailOf("ncclCommInitRankConfig", result);
  }
  return AwaitSettled();
}

void NcclCommunicator::End() {
  absl::MutexLock lock(&mutex_);
  ending_ = true;
  const bool closed = mutex_.AwaitWithTimeout(absl::Condition(
                                                  +[](bool* watched) { return !*watched; }, &watched_),
                                              kEndPatience);
  links_.reset();
  if (closed) return;
  spdlog::warn("an NCCL communicator is left behind: it cannot be closed yet ({})",
               Failed() ? failure_.ToString() : "in peace");
}

absl::Status NcclCommunicator::Group(absl::FunctionRef<ncclResult_t(ncclComm_t)> calls) {
  {
    absl::MutexLock lock(&mutex_);
    if (Failed()) return failure_;
    CHECK(comm_ != nullptr) << "before Init";
    const char* call = "ncclGroupStart";
    ncclResult_t result = Planted(Bug::kSendsUngrouped) ? ncclSuccess : ncclGroupStart();
    if (result == ncclSuccess) {
      const ncclResult_t within = calls(comm_);
      result = Planted(Bug::kSendsUngrouped) ? within : ncclGroupEnd();
      call = "ncclGroupEnd";
      if (within != ncclSuccess && within != ncclInProgress) result = within;
    }
    if (result == ncclSuccess || Planted(Bug::kForgetsToAwaitTheLaunch)) return absl::OkStatus();
    if (result != ncclInProgress) {
      FailOf(call, result);
      return failure_;
    }
  }
  // A thread of NCCL's enqueues it. What follows on the stream must come behind.
  return AwaitSettled();
}

void NcclCommunicator::SetDeadline(absl::Time deadline, std::string what) {
  absl::MutexLock lock(&mutex_);
  deadline_ = deadline;
  late_ = std::move(what);
}

void NcclCommunicator::Fail(const absl::Status& status, std::vector<int> suspects) {
  absl::MutexLock lock(&mutex_);
  SetFailure(status, std::move(suspects));
}

absl::Status NcclCommunicator::Check() {
  absl::MutexLock lock(&mutex_);
  Look();
  return failure_;
}

absl::Status NcclCommunicator::AwaitFailure(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &NcclCommunicator::Failed), timeout);
  return failure_;
}

std::vector<int> NcclCommunicator::suspects() const {
  absl::MutexLock lock(&mutex_);
  return suspects_;
}

void NcclCommunicator::SetFailure(const absl::Status& status, std::vector<int> suspects) {
  if (Failed()) return;
  failure_ = status;
  suspects_ = std::move(suspects);
}

ncclResult_t NcclCommunicator::Look() {
  if (Failed() || links_ == nullptr) return ncclSuccess;
  ncclResult_t state = ncclSuccess;
  ncclResult_t result = ncclSuccess;
  if (comm_ != nullptr) result = ncclCommGetAsyncError(comm_, &state);
  const ncclResult_t wrong = result != ncclSuccess ? result : state == ncclInProgress ? ncclSuccess : state;
  if (wrong != ncclSuccess) {
    FailOf("ncclCommGetAsyncError", wrong);
    return state;
  }
  if (FailOfGonePeers(absl::ZeroDuration())) return state;
  if (const absl::Time now = absl::Now(); now >= deadline_) {
    std::vector<int> suspects = links_->Suspects(now);
    const std::string who = suspects.empty()
                                ? "; all hear each other: one computes for so long, or NCCL's own network fails"
                                : fmt::format("; rank {} is cut off", fmt::join(suspects, ", "));
    SetFailure(absl::DeadlineExceededError(late_ + who), std::move(suspects));
  }
  return state;
}

// Who is gone says more than what NCCL makes of it.
void NcclCommunicator::FailOf(const char* call, ncclResult_t result) {
  if (!FailOfGonePeers(kNamePatience)) SetFailure(NcclError(call, result, comm_), links_->Suspects(absl::Now()));
}

bool NcclCommunicator::FailOfGonePeers(absl::Duration patience) {
  const absl::Time give_up = absl::Now() + patience;
  links_->Advance(absl::Now());
  for (absl::Time now = absl::Now(); now < give_up && links_->Gone().empty(); now = absl::Now()) {
    links_->Advance(now, give_up - now);
  }
  std::vector<int> gone = links_->Gone();
  if (gone.empty()) return false;
  const std::string who = fmt::format("rank {} is gone: {}", fmt::join(gone, ", "), links_->WhyGone(gone.front()));
  SetFailure(absl::UnavailableError(who), std::move(gone));
  return true;
}

std::vector<int> NcclCommunicator::Silent() const {
  absl::MutexLock lock(&mutex_);
  return links_ ? links_->Silent(absl::Now()) : std::vector<int>();
}

absl::Status NcclCommunicator::LookUntil(absl::FunctionRef<bool(ncclResult_t)> there) {
  for (int turn = 0;; ++turn) {
    {
      absl::MutexLock lock(&mutex_);
      const ncclResult_t state = Look();
      if (Failed()) return failure_;
      if (there(state)) return absl::OkStatus();
    }
    // A launch takes microseconds, to connect with peers takes as long as they do.
    if (turn < 100) {
      sched_yield();
    } else {
      RETURN_IF_ERROR(AwaitFailure(absl::Microseconds(200)));
    }
  }
}

absl::Status NcclCommunicator::AwaitLinks() {
  return LookUntil([this](ncclResult_t) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return links_->complete(); });
}

// Until nothing is in progress.
absl::Status NcclCommunicator::AwaitSettled() {
  return LookUntil([](ncclResult_t state) { return state != ncclInProgress; });
}

void NcclCommunicator::Watch() {
  cudaSetDevice(device_);
  ncclComm_t comm = nullptr;
  bool in_peace = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || Failed(); };
    while (!over()) {
      Look();
      mutex_.AwaitWithTimeout(absl::Condition(&over), kLookEvery);
    }
    mutex_.Await(absl::Condition(
        +[](bool* making) { return !*making; }, &making_));
    comm = std::exchange(comm_, nullptr);
    in_peace = !Failed();
  }
  if (comm != nullptr) Close(comm, in_peace);
  absl::MutexLock lock(&mutex_);
  watched_ = false;
}

void NcclCommunicator::Close(ncclComm_t comm, bool in_peace) {
  if (in_peace) {
    const absl::Time give_up = absl::Now() + kPeacePatience;
    ncclResult_t state = ncclCommFinalize(comm);
    while (state == ncclInProgress && absl::Now() < give_up) {
      absl::SleepFor(absl::Milliseconds(1));
      if (ncclCommGetAsyncError(comm, &state) != ncclSuccess) state = ncclInternalError;
    }
    if (state == ncclSuccess) {
      ncclCommDestroy(comm);
      return;
    }
  }
  ncclCommAbort(comm);  // whatever it says, there is nothing more to be done
}

}  // namespace braid::gpu
