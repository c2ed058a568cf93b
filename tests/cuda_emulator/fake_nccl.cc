// NCCL as far as the product calls it, over the streams of the fake CUDA runtime. A group becomes one operation of its
// stream. It begins when no other of its communicator is under way, sends all it has, takes what comes, acknowledges
// it, and is done when everything is taken on both sides: a rendezvous, as of messages that fit into no buffer.
//
// What goes wrong later than in a call is kept for ncclCommGetAsyncError, while the operation stays where it is, for
// good or until ncclCommAbort: then it ends, with half of what it was to receive.

#include "tests/cuda_emulator/fake_nccl.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <nccl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/fake_mesh.h"
#include "tests/cuda_emulator/fake_order.h"
#include "tests/cuda_emulator/fake_runtime.h"
#include "tests/cuda_emulator/fake_streams.h"

namespace fake {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kHelloMagic = 0x4c434e46;  // "FNCL"
// How often ncclCommGetAsyncError says "in progress" before a group of a non-blocking communicator is on its stream.
constexpr int kLaunchPolls = 2;
constexpr auto kComplainAfter = std::chrono::seconds(2);

struct Hello {
  uint32_t magic = kHelloMagic;
  int size = 0, rank = 0, device = 0;
  int64_t process = 0;
};

struct Transfer {
  enum class Kind { kSend, kReceive };
  Kind kind = Kind::kSend;
  int peer = 0;
  const char* from = nullptr;  // kSend
  char* to = nullptr;          // kReceive
  size_t bytes = 0;
  uint32_t tag = 0;  // the type
  bool done = false;
};

thread_local std::string last_error;
thread_local NcclFaults faults;

int64_t KillAtGroup() {
  static const int64_t at = [] {
    const char* value = std::getenv("FAKE_NCCL_KILL_AT_GROUP");
    return value == nullptr ? int64_t{-1} : std::strtoll(value, nullptr, 10);
  }();
  return at;
}

// What a communicator is; the operations have a share of it. Guarded by its mutex.
struct Communicator {
  std::mutex mutex;
  int rank = 0, size = 0, device = 0;
  bool blocking = true;
  NcclFaults faults;
  std::unique_ptr<Mesh> mesh;
  bool connected = false, finalizing = false, aborted = false;
  ncclResult_t error = ncclSuccess;
  std::string text;  // of the error
  struct Launch {
    cudaStream_t stream;
    MakeOperation make;
    int polls;
  };
  std::vector<Launch> launches;  // that are "in progress"
  const void* under_way = nullptr;
  int64_t groups = 0;
  // One share each: what is captured, and what is on a stream.
  std::shared_ptr<int> captured = std::make_shared<int>(), queued = std::make_shared<int>();

  ncclResult_t Fail(ncclResult_t result, const std::string& why) {
    if (error == ncclSuccess) {
      error = result;
      text = why;
    }
    return result;
  }
};
using Shared = std::shared_ptr<Communicator>;

}  // namespace
}  // namespace fake

struct ncclComm {
  fake::Shared state;
};

namespace fake {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<ncclComm_t, std::unique_ptr<ncclComm>> comms;
};
Registry& registry() {
  static auto* const all = new Registry;
  return *all;
}
std::atomic<int> aborts{0};

Shared Find(ncclComm_t comm) {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  const auto found = registry().comms.find(comm);
  return found == registry().comms.end() ? nullptr : found->second->state;
}
void Forget(ncclComm_t comm) {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().comms.erase(comm);
}

ncclResult_t Wrong(ncclResult_t result, const std::string& why) {
  last_error = why;
  return result;
}

// A group on a stream.
class Group {
 public:
  Group(Shared comm, std::vector<Transfer> transfers)
      : comm_(std::move(comm)),
        share_(comm_->queued),
        transfers_(std::move(transfers)),
        acks_(comm_->size),
        waits_(comm_->faults.delay) {}

  Progress Advance(cudaError_t*) {
    const std::lock_guard<std::mutex> lock(comm_->mutex);
    if (comm_->aborted) return Break();
    if (comm_->under_way != nullptr && comm_->under_way != this) return Progress::kWaiting;
    if (waits_-- > 0) return Progress::kWaiting;
    if (comm_->under_way == nullptr) Begin();
    comm_->mesh->Pump();
    const bool moved = Receive();
    FindGone();  // before more is read: what a peer sent before it went is looked at first
    comm_->mesh->Pump();
    if (comm_->error != ncclSuccess) return Progress::kWaiting;
    if (Done()) {
      comm_->under_way = nullptr;
      return Progress::kDone;
    }
    return moved ? Progress::kMoved : Progress::kWaiting;
  }

 private:
  void Begin() {
    comm_->under_way = this;
    number_ = comm_->groups++;
    if (number_ == KillAtGroup()) raise(SIGKILL);
    if (number_ == comm_->faults.dies_at_group) {
      comm_->mesh->Close();
      comm_->Fail(ncclSystemError, "this rank plays dead");
    }
    for (int peer = 0; peer < comm_->size; ++peer) acks_[peer] = comm_->mesh->acks(peer);
    for (Transfer& transfer : transfers_) {
      if (transfer.kind == Transfer::Kind::kReceive) continue;
      DeclareRead(transfer.from, transfer.bytes);
      comm_->mesh->Send(transfer.peer, Mesh::Kind::kData, transfer.tag, std::string(transfer.from, transfer.bytes));
      ++acks_[transfer.peer];
    }
  }

  // Of each peer in order. True if something came.
  bool Receive() {
    bool moved = false;
    for (Transfer& transfer : transfers_) {
      if (transfer.kind != Transfer::Kind::kReceive || transfer.done) continue;
      std::deque<Mesh::Frame>& data = comm_->mesh->data(transfer.peer);
      if (data.empty() || comm_->error != ncclSuccess) continue;
      const Mesh::Frame& frame = data.front();
      if (frame.payload.size() != transfer.bytes || frame.tag != transfer.tag) {
        comm_->Fail(ncclInvalidUsage, "rank " + std::to_string(comm_->rank) + " expected " +
                                          std::to_string(transfer.bytes) + " bytes of kind " +
                                          std::to_string(transfer.tag) + " from rank " + std::to_string(transfer.peer) +
                                          ", got " + std::to_string(frame.payload.size()) + " of kind " +
                                          std::to_string(frame.tag));
        return moved;
      }
      Deliver(transfer, frame.payload, number_ == comm_->faults.halves_at_group);
      data.pop_front();
      comm_->mesh->Send(transfer.peer, Mesh::Kind::kAck);
      transfer.done = moved = true;
    }
    return moved;
  }

  static void Deliver(const Transfer& transfer, const std::string& payload, bool half) {
    const size_t bytes = half ? transfer.bytes / 2 : transfer.bytes;
    DeclareWrite(transfer.to, bytes);
    std::memcpy(transfer.to, payload.data(), bytes);
  }

  bool Done() const {
    for (const Transfer& transfer : transfers_) {
      if (transfer.kind == Transfer::Kind::kReceive && !transfer.done) return false;
      if (transfer.kind == Transfer::Kind::kSend && comm_->mesh->acks(transfer.peer) < acks_[transfer.peer])
        return false;
    }
    return comm_->mesh->flushed();
  }

  void FindGone() {
    if (comm_->error != ncclSuccess) return;
    for (const Transfer& transfer : transfers_) {
      const bool taken = transfer.kind == Transfer::Kind::kSend
                             ? comm_->mesh->acks(transfer.peer) >= acks_[transfer.peer]
                             : transfer.done;
      if (taken || !comm_->mesh->gone(transfer.peer)) continue;
      comm_->Fail(ncclRemoteError, "a connection was closed by its other end");
    }
  }

  // Everything that is missing comes to half: of what has arrived, or of nothing.
  Progress Break() {
    for (Transfer& transfer : transfers_) {
      if (transfer.kind != Transfer::Kind::kReceive || transfer.done) continue;
      Deliver(transfer, std::string(transfer.bytes, '\x5a'), true);
      transfer.done = true;
    }
    if (comm_->under_way == this) comm_->under_way = nullptr;
    return Progress::kDone;
  }

  const Shared comm_;
  const std::shared_ptr<int> share_;
  std::vector<Transfer> transfers_;
  std::vector<uint64_t> acks_;  // by peer: how many there are when all is taken
  int64_t waits_;
  int64_t number_ = -1;
};

std::string Describe(const Communicator& comm, const std::vector<Transfer>& transfers) {
  int sends = 0, receives = 0;
  std::string peers;
  for (const Transfer& transfer : transfers) {
    (transfer.kind == Transfer::Kind::kSend ? sends : receives) += 1;
    peers += (transfer.kind == Transfer::Kind::kSend ? " to " : " from ") + std::to_string(transfer.peer);
  }
  return "a group of NCCL of rank " + std::to_string(comm.rank) + ", " + std::to_string(sends) + " sends and " +
         std::to_string(receives) + " receives:" + peers;
}

MakeOperation Maker(const Shared& comm, std::vector<Transfer> transfers) {
  return [comm, share = comm->captured, name = Describe(*comm, transfers), transfers = std::move(transfers)] {
    auto group = std::make_shared<Group>(comm, transfers);
    return Operation{name, [group](cudaError_t* error) { return group->Advance(error); }};
  };
}

// The launches that are due, out of the lock, which Enqueue must not be called under.
void LaunchDue(const Shared& comm) {
  std::vector<Communicator::Launch> due;
  {
    const std::lock_guard<std::mutex> lock(comm->mutex);
    if (comm->aborted) comm->launches.clear();
    if (comm->launches.empty() || --comm->launches.front().polls > 0) return;
    due.swap(comm->launches);
  }
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(comm->device);
  for (Communicator::Launch& launch : due) {
    const cudaError_t error = Enqueue(launch.stream, std::move(launch.make));
    if (error == cudaSuccess) continue;
    const std::lock_guard<std::mutex> lock(comm->mutex);
    comm->Fail(ncclUnhandledCudaError, std::string("a launch failed: ") + cudaGetErrorString(error));
  }
  cudaSetDevice(before);
}

// ncclInProgress, or how the attempt to connect ended.
ncclResult_t Connect(Communicator& comm) {
  if (comm.error != ncclSuccess) return comm.error;
  if (comm.connected) return ncclSuccess;
  if (!comm.mesh->Connect()) return ncclInProgress;
  std::vector<Hello> hellos(comm.size);
  for (int peer = 0; peer < comm.size; ++peer) {
    Hello& hello = hellos[peer];
    if (peer == comm.rank) {
      hello = {.size = comm.size, .rank = peer, .device = comm.device, .process = getpid()};
    } else if (comm.mesh->hello(peer).size() == sizeof hello) {
      std::memcpy(&hello, comm.mesh->hello(peer).data(), sizeof hello);
    }
    if (hello.magic != kHelloMagic || hello.rank != peer || hello.size != comm.size)
      return comm.Fail(ncclInvalidUsage, "rank " + std::to_string(peer) + " thinks that there are " +
                                             std::to_string(hello.size) + " ranks, and that it is rank " +
                                             std::to_string(hello.rank));
    for (int other = 0; other < peer; ++other) {
      if (hellos[other].process == hello.process && hellos[other].device == hello.device)
        return comm.Fail(ncclInvalidUsage, "Duplicate GPU detected : rank " + std::to_string(other) + " and rank " +
                                               std::to_string(peer) + " both on CUDA device " +
                                               std::to_string(hello.device));
    }
  }
  comm.connected = true;
  return ncclSuccess;
}

// Whether all has come to rest here and at the others.
bool Quiet(Communicator& comm) {
  comm.mesh->Pump();
  if (comm.queued.use_count() > 1 || !comm.launches.empty() || !comm.mesh->flushed()) return false;
  for (int peer = 0; peer < comm.size; ++peer) {
    if (peer != comm.rank && !comm.mesh->final(peer) && !comm.mesh->gone(peer)) return false;
  }
  return true;
}

// Until no stream and no graph has anything of it any more.
void AwaitLetGo(const Shared& comm, const char* who) {
  const Clock::time_point start = Clock::now();
  bool complained = false;
  for (;;) {
    {
      Call call(Call::Needs::kNothing);
      runtime().Nudge(call.lock());
    }
    const long captured = comm->captured.use_count() - 1, queued = comm->queued.use_count() - 1;
    if (captured == 0 && queued == 0) return;
    if (!complained && Clock::now() - start > kComplainAfter) {
      complained = true;
      std::fprintf(stderr, "fake NCCL: %s of rank %d waits for %ld groups in graphs and %ld on streams\n", who,
                   comm->rank, captured, queued);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

size_t BytesOf(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 0;
  }
}

// Calls of this thread since ncclGroupStart.
struct Pending {
  int depth = 0;
  Shared comm;
  cudaStream_t stream = nullptr;
  std::vector<Transfer> transfers;
  ncclResult_t error = ncclSuccess;
};
thread_local Pending pending;

ncclResult_t EndGroup() {
  Pending group = std::move(pending);
  pending = {};
  if (group.error != ncclSuccess) return group.error;
  if (group.comm == nullptr) return ncclSuccess;
  MakeOperation make = Maker(group.comm, std::move(group.transfers));
  if (group.comm->blocking) {
    const cudaError_t error = Enqueue(group.stream, std::move(make));
    return error == cudaSuccess ? ncclSuccess : Wrong(ncclUnhandledCudaError, cudaGetErrorString(error));
  }
  const std::lock_guard<std::mutex> lock(group.comm->mutex);
  group.comm->launches.push_back({group.stream, std::move(make), kLaunchPolls});
  return ncclInProgress;
}

// One call, which is a group by itself outside of any.
ncclResult_t Add(ncclComm_t handle, cudaStream_t stream, const std::vector<Transfer>& transfers) {
  const auto check = [&]() -> ncclResult_t {
    const Shared comm = Find(handle);
    if (comm == nullptr) return Wrong(ncclInvalidArgument, "no such communicator");
    {
      const std::lock_guard<std::mutex> lock(comm->mutex);
      if (comm->error != ncclSuccess) return Wrong(comm->error, comm->text);
      if (!comm->connected || comm->finalizing || !comm->launches.empty())
        return Wrong(ncclInvalidArgument, "the communicator is not ready: its last operation is in progress");
    }
    if (DeviceOf(stream) != comm->device) return Wrong(ncclInvalidArgument, "a stream of another device");
    if (pending.comm != nullptr && (pending.comm != comm || pending.stream != stream))
      return Wrong(ncclInvalidUsage, "the fake knows groups of one communicator and one stream only");
    for (const Transfer& transfer : transfers) {
      if (transfer.peer < 0 || transfer.peer >= comm->size) return Wrong(ncclInvalidArgument, "no such peer");
      if (transfer.kind != Transfer::Kind::kReceive && transfer.bytes > 0 &&
          !IsDeviceMemory(transfer.from, transfer.bytes, comm->device))
        return Wrong(ncclInvalidArgument, "what is sent is not in one allocation of the device");
      if (transfer.kind != Transfer::Kind::kSend && transfer.bytes > 0 &&
          !IsDeviceMemory(transfer.to, transfer.bytes, comm->device))
        return Wrong(ncclInvalidArgument, "what is received is not in one allocation of the device");
    }
    pending.comm = comm;
    pending.stream = stream;
    pending.transfers.insert(pending.transfers.end(), transfers.begin(), transfers.end());
    return ncclSuccess;
  };
  const ncclResult_t result = check();
  if (result != ncclSuccess) pending.error = result;
  return pending.depth > 0 ? result : EndGroup();
}

}  // namespace

void SetNcclFaults(const NcclFaults& wanted) { faults = wanted; }

int NcclCommunicators() {
  const Hidden hidden;
  const std::lock_guard<std::mutex> lock(registry().mutex);
  return static_cast<int>(registry().comms.size());
}

int NcclAborts() { return aborts; }

}  // namespace fake

// ---- The API.

using fake::Hidden;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Hidden hidden;
  *id = {};
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return fake::Wrong(ncclSystemError, "getrandom");
  std::snprintf(id->internal, sizeof id->internal, "braid-fake-nccl-%016lx", static_cast<unsigned long>(random));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* handle, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const Hidden hidden;
  if (handle == nullptr || size < 1 || rank < 0 || rank >= size)
    return fake::Wrong(ncclInvalidArgument, "no such rank");
  if (config != nullptr && (config->size != sizeof *config || config->magic != 0xcafebeef))
    return fake::Wrong(ncclInvalidArgument, "a configuration without NCCL_CONFIG_INITIALIZER");
  if (memchr(id.internal, 0, sizeof id.internal) == nullptr || id.internal[0] == 0)
    return fake::Wrong(ncclInvalidArgument, "not a unique id");
  auto comm = std::make_shared<fake::Communicator>();
  comm->rank = rank;
  comm->size = size;
  comm->faults = fake::faults;
  if (const cudaError_t error = cudaGetDevice(&comm->device); error != cudaSuccess)
    return fake::Wrong(ncclUnhandledCudaError, cudaGetErrorString(error));
  comm->blocking = config == nullptr || config->blocking != 0;
  const fake::Hello hello = {.size = size, .rank = rank, .device = comm->device, .process = getpid()};
  comm->mesh = std::make_unique<fake::Mesh>(id.internal, rank, size,
                                            std::string(reinterpret_cast<const char*>(&hello), sizeof hello));
  auto made = std::make_unique<ncclComm>();
  made->state = comm;
  *handle = made.get();
  {
    const std::lock_guard<std::mutex> lock(fake::registry().mutex);
    fake::registry().comms.emplace(*handle, std::move(made));
  }
  if (!comm->blocking) return ncclInProgress;
  for (;;) {
    {
      const std::lock_guard<std::mutex> lock(comm->mutex);
      const ncclResult_t result = fake::Connect(*comm);
      if (result != ncclInProgress) return result;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

ncclResult_t ncclCommInitRank(ncclComm_t* handle, int size, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(handle, size, id, rank, nullptr);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm == nullptr) return fake::Wrong(ncclInvalidArgument, "no such communicator");
  fake::LaunchDue(comm);
  const std::lock_guard<std::mutex> lock(comm->mutex);
  *error = fake::Connect(*comm);
  if (*error != ncclSuccess) return ncclSuccess;
  if (!comm->launches.empty() || (comm->finalizing && !fake::Quiet(*comm))) *error = ncclInProgress;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm == nullptr) return fake::Wrong(ncclInvalidArgument, "no such communicator");
  for (bool first = true;; first = false) {
    {
      const std::lock_guard<std::mutex> lock(comm->mutex);
      if (!comm->connected || (first && comm->finalizing))
        return fake::Wrong(ncclInvalidArgument, "a communicator that is not ready, or finalized already");
      comm->finalizing = true;
      if (first) {
        for (int peer = 0; peer < comm->size; ++peer) comm->mesh->Send(peer, fake::Mesh::Kind::kFinal);
        comm->mesh->Pump();
      }
      if (!comm->blocking) return ncclInProgress;
      if (fake::Quiet(*comm)) return ncclSuccess;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

// Waits as the real one does: for its graphs, too, and a rank that was not finalized for its own operations.
ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm == nullptr) return fake::Wrong(ncclInvalidArgument, "no such communicator");
  fake::AwaitLetGo(comm, "ncclCommDestroy");
  {
    const std::lock_guard<std::mutex> lock(comm->mutex);
    comm->mesh->Close();
  }
  fake::Forget(handle);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm == nullptr) return fake::Wrong(ncclInvalidArgument, "no such communicator");
  ++fake::aborts;
  {
    const std::lock_guard<std::mutex> lock(comm->mutex);
    comm->aborted = true;
    comm->launches.clear();
    comm->mesh->Close();
  }
  fake::AwaitLetGo(comm, "ncclCommAbort");
  fake::Forget(handle);
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t handle, int* count) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm == nullptr) return fake::Wrong(ncclInvalidArgument, "no such communicator");
  *count = comm->size;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

// Good until the thread's next call of it.
const char* ncclGetLastError(ncclComm_t handle) {
  const Hidden hidden;
  const fake::Shared comm = fake::Find(handle);
  if (comm != nullptr) {
    const std::lock_guard<std::mutex> lock(comm->mutex);
    if (!comm->text.empty()) fake::last_error = comm->text;
  }
  return fake::last_error.c_str();
}

ncclResult_t ncclGroupStart() {
  ++fake::pending.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  const Hidden hidden;
  if (fake::pending.depth == 0) return fake::Wrong(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
  return --fake::pending.depth > 0 ? ncclSuccess : fake::EndGroup();
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const Hidden hidden;
  return fake::Add(comm, stream,
                   {{.kind = fake::Transfer::Kind::kSend,
                     .peer = peer,
                     .from = static_cast<const char*>(from),
                     .bytes = count * fake::BytesOf(type),
                     .tag = static_cast<uint32_t>(type)}});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  const Hidden hidden;
  return fake::Add(comm, stream,
                   {{.kind = fake::Transfer::Kind::kReceive,
                     .peer = peer,
                     .to = static_cast<char*>(to),
                     .bytes = count * fake::BytesOf(type),
                     .tag = static_cast<uint32_t>(type)}});
}
