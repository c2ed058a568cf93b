#include "expert_worker/exchange/nccl.h"

#include <fmt/format.h>
#include <nccl.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"
#include "expert_worker/exchange/frame.h"
#include "expert_worker/exchange/nccl_communicator.h"
#include "expert_worker/exchange/own_address.h"
#include "expert_worker/exchange/peer_links.h"

// Every exchange is one group of sends and receives, so that no rank waits for another in the order of its calls. Sizes
// are the same on both ends by contract; NCCL does not check them.

namespace braid::gpu {
namespace {

// The first that has all of non-blocking communicators, and finalizes them well.
constexpr int kVersionMin = NCCL_VERSION(2, 18, 0);
// Between two looks at an event; shorter, the host is as busy as if it did not sleep.
constexpr absl::Duration kNap = absl::Microseconds(50);
// An aborted kernel leaves within microseconds; a device that has not come to it by then hangs.
constexpr absl::Duration kDryPatience = absl::Seconds(2);

constexpr uint32_t kMagic = 0x4c43434e;  // "NCCL"

// The transport's part of an address; the ticket of the rank's links follows.
struct NcclAddress {
  uint32_t magic = kMagic;
  int32_t version = 0;
  int32_t size = 0;
  int32_t has_id = 0;  // of rank 0
  ncclUniqueId id = {};
};

std::string VersionName(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

class NcclExchange : public DeviceExchange {
 public:
  NcclExchange(const NcclOptions& nccl, int version, const ExchangeOptions& options, std::unique_ptr<PeerLinks> links)
      : nccl_(nccl), version_(version), options_(options), links_(std::move(links)) {}

  ~NcclExchange() override {
    if (connected_) connected_->End();
  }

  absl::Status Open() {
    NcclAddress own = {.version = version_, .size = options_.size, .has_id = options_.rank == 0};
    if (options_.rank == 0) {
      const ncclResult_t result = ncclGetUniqueId(&own.id);
      if (result != ncclSuccess) return NcclError("ncclGetUniqueId", result, nullptr);
    }
    address_ =
        EncodeAddress(options_, std::string(reinterpret_cast<const char*>(&own), sizeof(own)) + links_->ticket());
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

  absl::Status Connect(std::span<const std::string> addresses) override {
    const absl::Duration timeout = std::max(options_.connect_timeout, nccl_.connect_timeout_min);
    const absl::Time deadline = absl::Now() + timeout;
    std::vector<std::string> tickets;
    ncclUniqueId id = {};
    absl::Status status = ReadAddresses(addresses, &tickets, &id);
    if (status.ok()) status = links_->Reach(tickets);
    auto communicator = std::make_shared<NcclCommunicator>(nccl_.device, std::move(links_));
    {
      absl::MutexLock lock(&mutex_);
      if (failure_.ok()) failure_ = status;
      RETURN_IF_ERROR(failure_);  // or Abort
      communicator_ = communicator;
    }
    connected_ = std::move(communicator);
    connected_->SetDeadline(
        deadline, fmt::format("not all {} ranks came within {}", options_.size, absl::FormatDuration(timeout)));
    RETURN_IF_ERROR(CheckCuda("cudaSetDevice", cudaSetDevice(nccl_.device)));
    const absl::Status joined = connected_->Init(id, options_.size, options_.rank);
    connected_->SetDeadline(absl::InfiniteFuture(), "");
    return joined;
  }

  absl::Status AllToAll(const void* send, void* received, size_t slot_bytes, cudaStream_t stream) override {
    const auto all = [&](int) { return slot_bytes; };
    return Swap(send, slot_bytes, received, slot_bytes, all, all, stream);
  }

  absl::Status AllToAllExact(const void* send, std::span<const size_t> send_bytes, void* received,
                             std::span<const size_t> received_bytes, size_t slot_bytes, cudaStream_t stream) override {
    CHECK_EQ(static_cast<int>(send_bytes.size()), options_.size);
    CHECK_EQ(static_cast<int>(received_bytes.size()), options_.size);
    return Swap(
        send, slot_bytes, received, slot_bytes, [&](int rank) { return send_bytes[rank]; },
        [&](int rank) { return received_bytes[rank]; }, stream);
  }

  // Not by ncclAllGather: its rings would take buffers of their own on each of NCCL's channels, 300 MB of an H100 for
  // numbers of a few bytes.
  absl::Status AllGather(const void* mine, void* all, size_t bytes, cudaStream_t stream) override {
    std::byte* const own = static_cast<std::byte*>(all) + options_.rank * bytes;
    RETURN_IF_ERROR(GoOn());
    RETURN_IF_ERROR(CheckCuda("cudaMemcpyAsync", cudaMemcpyAsync(own, mine, bytes, cudaMemcpyDeviceToDevice, stream)));
    const auto one = [&](int) { return bytes; };
    return Swap(mine, 0, all, bytes, one, one, stream);
  }

  void BeginStep(uint64_t step) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return;
    CHECK(connected_) << "before Connect";
    if (waiting_ && progress_.phase > 0) {
      next_step_ = step;
    } else {
      Begin(step);
    }
  }

  absl::Status Wait(cudaEvent_t event) override {
    RETURN_IF_ERROR(GoOn());
    const absl::Status status = Await(event);
    absl::MutexLock lock(&mutex_);
    waiting_ = false;
    if (progress_.phase == 0) began_ = absl::InfiniteFuture();
    if (next_step_) {
      Begin(*std::exchange(next_step_, std::nullopt));
    } else {
      connected_->SetDeadline(absl::InfiniteFuture(), "");
    }
    return status;
  }

  void Abort(const std::string& reason) override {
    absl::MutexLock lock(&mutex_);
    if (communicator_) {
      communicator_->Fail(absl::AbortedError(reason));
    } else if (failure_.ok()) {
      failure_ = absl::AbortedError(reason);
    }
  }

  std::vector<int> suspects() const override { return connected_ ? connected_->suspects() : std::vector<int>(); }

  ExchangeProgress progress() const override {
    absl::MutexLock lock(&mutex_);
    ExchangeProgress progress = progress_;
    if (waiting_) {
      progress.waited = absl::Now() - began_;
      progress.waiting_for = communicator_->Silent();
    }
    return progress;
  }

 private:
  absl::Status ReadAddresses(std::span<const std::string> addresses, std::vector<std::string>* tickets,
                             ncclUniqueId* id) {
    if (static_cast<int>(addresses.size()) != options_.size) {
      return InvalidArgument(fmt::format("{} addresses for {} ranks", addresses.size(), options_.size));
    }
    for (int rank = 0; rank < options_.size; ++rank) {
      const auto wrong = [&](const std::string& what) {
        return InvalidArgument(fmt::format("address of rank {}: {}", rank, what));
      };
      ASSIGN_OR_RETURN(const std::string_view remote, DecodeAddress(addresses[rank], options_, rank));
      NcclAddress address;
      if (remote.size() != sizeof(address) + PeerLinks::kTicketBytes) return wrong("not one of NCCL");
      std::memcpy(&address, remote.data(), sizeof(address));
      if (address.magic != kMagic) return wrong("not one of NCCL");
      if (address.version != version_) {
        return wrong(fmt::format("NCCL {}, here {}: install the same on all machines", VersionName(address.version),
                                 VersionName(version_)));
      }
      if (address.size != options_.size) return wrong(fmt::format("{} ranks, here {}", address.size, options_.size));
      if (address.has_id != (rank == 0)) return wrong(rank == 0 ? "no unique id" : "a unique id, which is rank 0's");
      if (rank == 0) *id = address.id;
      tickets->emplace_back(remote.substr(sizeof(address)));
    }
    return absl::OkStatus();
  }

  // What goes to a rank lies rank * send_slot bytes behind `send`, and so on.
  template <typename SendBytes, typename ReceivedBytes>
  absl::Status Swap(const void* send, size_t send_slot, void* received, size_t slot_bytes, const SendBytes& send_bytes,
                    const ReceivedBytes& received_bytes, cudaStream_t stream) {
    CHECK_LE(slot_bytes, options_.message_bytes_max);
    return Enqueue([&](ncclComm_t comm) {
      // Each rank begins with its neighbour: nobody is the first that all send to.
      for (int distance = 1; distance < options_.size; ++distance) {
        const int to = (options_.rank + distance) % options_.size;
        const int from = (options_.rank + options_.size - distance) % options_.size;
        const size_t out = send_bytes(to) - (Planted(Bug::kSendsAWrongCount) ? 1 : 0), in = received_bytes(from);
        CHECK(out <= slot_bytes && in <= slot_bytes) << out << " or " << in << " of " << slot_bytes << " bytes";
        ncclResult_t result = ncclSuccess;
        const auto fine = [&] { return result == ncclSuccess || result == ncclInProgress; };
        if (out > 0) {
          result = ncclSend(static_cast<const std::byte*>(send) + to * send_slot, out, ncclUint8, to, comm, stream);
        }
        if (fine() && in > 0) {
          result = ncclRecv(static_cast<std::byte*>(received) + from * slot_bytes, in, ncclUint8, from, comm, stream);
        }
        if (!fine()) return result;
      }
      return ncclSuccess;
    });
  }

  absl::Status Enqueue(absl::FunctionRef<ncclResult_t(ncclComm_t)> calls) {
    RETURN_IF_ERROR(GoOn());
    return connected_->Group(calls);
  }

  // Until the event has come, whether by what it stands for or by an abort.
  absl::Status Await(cudaEvent_t event) {
    const absl::Time spin_until = absl::Now() + nccl_.spin;
    absl::Time dry_by = absl::InfiniteFuture();
    for (;;) {
      const cudaError_t error = cudaEventQuery(event);
      // An aborted exchange ends like any other. So the last look comes behind the event, and the failure of an abort
      // is known before it begins.
      if (error == cudaSuccess) return Planted(Bug::kBelievesWhatWasAborted) ? absl::OkStatus() : connected_->Check();
      RETURN_IF_ERROR(error == cudaErrorNotReady ? absl::OkStatus() : CheckCuda("cudaEventQuery", error));
      cudaGetLastError();  // "not ready" is no error that somebody else should find
      const absl::Time now = absl::Now();
      const bool spins = now < spin_until;
      if (const absl::Status failed = connected_->AwaitFailure(spins ? absl::ZeroDuration() : kNap); !failed.ok()) {
        // Nobody may have the buffers back while a stream still works on them.
        if (dry_by == absl::InfiniteFuture()) dry_by = now + kDryPatience;
        if (now >= dry_by) return Annotate(failed, "the device does not stop, start this worker again");
      }
      sched_yield();
    }
  }

  // A failed device fails every call from now on.
  absl::Status CheckCuda(const char* call, cudaError_t error) {
    if (error == cudaSuccess) return absl::OkStatus();
    connected_->Fail(
        absl::InternalError(fmt::format("{}: {} ({})", call, cudaGetErrorString(error), cudaGetErrorName(error))));
    return connected_->Check();
  }

  // With the step, which a Wait in the middle of it took to be over.
  absl::Status GoOn() {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(failure_);
    CHECK(connected_) << "before Connect";
    if (began_ == absl::InfiniteFuture()) began_ = absl::Now();  // before the first step each Wait has its own time
    if (!waiting_) Arm();
    return absl::OkStatus();
  }

  void Begin(uint64_t step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    progress_ = {.phase = step};
    began_ = absl::Now();
    Arm();
  }

  void Arm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    waiting_ = true;
    connected_->SetDeadline(began_ + options_.timeout, fmt::format("step {} was not over within {}", progress_.phase,
                                                                   absl::FormatDuration(options_.timeout)));
  }

  const NcclOptions nccl_;
  const int version_;
  const ExchangeOptions options_;
  std::string address_;
  std::unique_ptr<PeerLinks> links_;             // until there is a communicator, which has them then
  std::shared_ptr<NcclCommunicator> connected_;  // the same as communicator_, for the thread that uses *this

  mutable absl::Mutex mutex_;
  std::shared_ptr<NcclCommunicator> communicator_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // of what came before there was a communicator
  ExchangeProgress progress_ ABSL_GUARDED_BY(mutex_);
  absl::Time began_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // the step
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;                       // it is not over
  std::optional<uint64_t> next_step_ ABSL_GUARDED_BY(mutex_);          // has begun behind it
};

class NcclFactory : public DeviceExchangeFactory {
 public:
  NcclFactory(const NcclOptions& options, int version) : options_(options), version_(version) {}

  absl::StatusOr<std::unique_ptr<DeviceExchange>> PrepareDevice(const ExchangeOptions& options) override {
    if (!own_) {
      const char* const interfaces = std::getenv("NCCL_SOCKET_IFNAME");
      ASSIGN_OR_RETURN(own_, OwnAddress(interfaces != nullptr ? interfaces : "", options_.router));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<PeerLinks> links,
                     PeerLinks::Listen({.epoch = options.epoch, .rank = options.rank, .size = options.size}, *own_));
    auto exchange = std::make_unique<NcclExchange>(options_, version_, options, std::move(links));
    RETURN_IF_ERROR(exchange->Open());
    return exchange;
  }

 private:
  const NcclOptions options_;
  const int version_;
  // Asked for in the first epoch, when the router has been reached; for good, as NCCL's.
  std::optional<SocketAddress> own_;
};

}  // namespace

uint64_t NcclMemoryBytes(int ranks, int communicators, bool nvlink) {
  if (ranks == 1) return 0;
  constexpr uint64_t kMiB = 1 << 20;
  // Its kernels, and what a communicator has before anybody sends, a pool for other machines included.
  constexpr uint64_t kOnce = 512 * kMiB, kOfCommunicator = 192 * kMiB;
  // Of one channel from one peer: room for each of its three protocols to receive into, in pages of 2 MiB, and such a
  // page to send from. Channels are as many as it takes to fill 18 links: 32 in any log of eight H100s.
  constexpr uint64_t kOfChannel = (10 + 2) * kMiB;
  const uint64_t peers = static_cast<uint64_t>(ranks - 1), channels = nvlink ? 32 : 8;
  return kOnce + static_cast<uint64_t>(communicators) * (kOfCommunicator + peers * channels * kOfChannel);
}

absl::StatusOr<std::unique_ptr<DeviceExchangeFactory>> MakeNcclExchangeFactory(const NcclOptions& options) {
  int version = 0;
  if (const ncclResult_t result = ncclGetVersion(&version); result != ncclSuccess) {
    return NcclError("ncclGetVersion", result, nullptr);
  }
  if (version < kVersionMin) {
    return absl::UnavailableError(fmt::format("NCCL {} is too old, {} is the first that will do", VersionName(version),
                                              VersionName(kVersionMin)));
  }
  // From 2.21 on NCCL has network cards write straight into buffers that a captured group receives into. What a peer of
  // an epoch that was aborted sends late would then land in the buffers of the next one, which are the same. NCCL reads
  // this once, before its first communicator; who has set it knows what he does.
  setenv("NCCL_GRAPH_REGISTER", "0", /*replace=*/0);
  return std::make_unique<NcclFactory>(options, version);
}

}  // namespace braid::gpu
