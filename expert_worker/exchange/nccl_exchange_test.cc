// The exchange between GPUs, over the fakes of CUDA's runtime and of NCCL. Ranks are threads with a device each, or
// processes.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>

#include "absl/time/clock.h"
#include "base/planted_bug.h"
#include "expert_worker/exchange/nccl.h"
#include "expert_worker/exchange/peer_links.h"
#include "expert_worker/exchange/test_blobs.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/fake_nccl.h"
#include "tests/cuda_emulator/simt.h"
//
#include "kernels/cuda/device.h"

namespace braid::gpu {
namespace {

using absl::StatusCode;

constexpr size_t kSlotMax = 1 << 20;
constexpr char kWrongBytes[] = "wrong bytes";

#define CUDA_OK(expression) ASSERT_EQ(expression, cudaSuccess)

// What byte i of the message from one rank to another is, in a round.
__host__ __device__ inline uint8_t Pattern(int from, int to, int round, size_t i) {
  return static_cast<uint8_t>(from * 31 + to * 7 + round * 3 + i * 5 + 1);
}

__global__ void WriteSlots(uint8_t* slots, int rank, const int* round, size_t slot_bytes) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < slot_bytes) slots[blockIdx.y * slot_bytes + i] = Pattern(rank, static_cast<int>(blockIdx.y), *round, i);
}

// What came, plus one: the answer to it.
__global__ void AddOne(const uint8_t* from, uint8_t* to, size_t bytes) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < bytes) to[i] = from[i] + 1;
}

__global__ void WaitsInOneBranch() {
  if (threadIdx.x == 0) __syncthreads();
}

dim3 BlocksFor(size_t bytes, int rows = 1) {
  return dim3(static_cast<unsigned>((bytes + 31) / 32), static_cast<unsigned>(rows));
}

struct Options {
  absl::Duration timeout = absl::Seconds(20), connect_timeout = absl::Seconds(20), connect_timeout_min;
  Bug bug = Bug::kNone;
  fake::NcclFaults faults;  // of rank 1
  bool orders_streams = true;
};

// One rank: its exchange, and a step on two streams as the engine has them, one that computes and one that exchanges.
class Rank {
 public:
  Rank(DeviceExchange* exchange, int rank, int size, size_t slot_bytes, bool orders_streams = true)
      : exchange_(exchange), rank_(rank), size_(size), slot_bytes_(slot_bytes), orders_streams_(orders_streams) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&compute_, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&transfer_, cudaStreamNonBlocking), cudaSuccess);
    for (cudaEvent_t* event : {&written_, &came_, &answered_, &returned_, &done_}) {
      EXPECT_EQ(cudaEventCreateWithFlags(event, cudaEventDisableTiming), cudaSuccess);
    }
    for (uint8_t** slots : {&out_, &in_, &answer_, &back_}) {
      EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(slots), bytes()), cudaSuccess);
    }
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&round_), sizeof(int)), cudaSuccess);
    EXPECT_EQ(cudaMallocHost(reinterpret_cast<void**>(&host_), 2 * bytes() + sizeof(int)), cudaSuccess);
  }

  // Memory goes with fake::Reset: of a device that hangs nothing can be freed.
  ~Rank() {
    cudaStreamDestroy(compute_);
    cudaStreamDestroy(transfer_);
    for (const cudaEvent_t event : {written_, came_, answered_, returned_, done_}) cudaEventDestroy(event);
  }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  // There and back: every rank answers what it gets.
  absl::Status Enqueue(const std::function<absl::Status(const void*, void*)>& exchange) {
    const auto then = [&](cudaStream_t first, cudaEvent_t event, cudaStream_t second) {
      EXPECT_EQ(cudaEventRecord(event, first), cudaSuccess);
      if (!orders_streams_) return;
      EXPECT_EQ(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
    };
    EXPECT_EQ(
        Launch(WriteSlots, BlocksFor(slot_bytes_, size_), dim3(32), 0, compute_, out_, rank_, round_, slot_bytes_),
        cudaSuccess);
    then(compute_, written_, transfer_);
    if (absl::Status status = exchange(out_, in_); !status.ok()) return status;
    then(transfer_, came_, compute_);
    EXPECT_EQ(Launch(AddOne, BlocksFor(bytes()), dim3(32), 0, compute_, in_, answer_, bytes()), cudaSuccess);
    then(compute_, answered_, transfer_);
    if (absl::Status status = exchange(answer_, back_); !status.ok()) return status;
    then(transfer_, returned_, compute_);
    EXPECT_EQ(cudaMemcpyAsync(host_, in_, bytes(), cudaMemcpyDeviceToHost, compute_), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(host_ + bytes(), back_, bytes(), cudaMemcpyDeviceToHost, compute_), cudaSuccess);
    return absl::OkStatus();
  }
  absl::Status EnqueueSlots() {
    return Enqueue([this](const void* send, void* received) {
      return exchange_->AllToAll(send, received, slot_bytes_, transfer_);
    });
  }

  void Begin(int round) {
    exchange_->BeginStep(round);
    std::memcpy(host_ + 2 * bytes(), &round, sizeof(int));
    EXPECT_EQ(cudaMemcpyAsync(round_, host_ + 2 * bytes(), sizeof(int), cudaMemcpyHostToDevice, compute_), cudaSuccess);
  }
  absl::Status Wait() {
    EXPECT_EQ(cudaEventRecord(done_, compute_), cudaSuccess);
    return exchange_->Wait(done_);
  }
  // Of what Wait believed.
  absl::Status Check(int round) const {
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      for (size_t i = 0; i < slot_bytes_; ++i) {
        const size_t at = peer * slot_bytes_ + i;
        if (host_[at] != Pattern(peer, rank_, round, i)) return absl::InternalError(kWrongBytes);
        if (host_[bytes() + at] != static_cast<uint8_t>(Pattern(rank_, peer, round, i) + 1)) {
          return absl::InternalError(kWrongBytes);
        }
      }
    }
    return absl::OkStatus();
  }
  absl::Status Step(int round) {
    Begin(round);
    if (absl::Status status = EnqueueSlots(); !status.ok()) return status;
    if (absl::Status status = Wait(); !status.ok()) return status;
    return Check(round);
  }

  cudaGraphExec_t Capture() {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(compute_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_TRUE(EnqueueSlots().ok());
    EXPECT_EQ(cudaStreamEndCapture(compute_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return executable;
  }
  absl::Status StepOf(cudaGraphExec_t graph, int round) {
    Begin(round);
    EXPECT_EQ(cudaGraphLaunch(graph, compute_), cudaSuccess);
    if (absl::Status status = Wait(); !status.ok()) return status;
    return Check(round);
  }

  size_t bytes() const { return slot_bytes_ * size_; }
  DeviceExchange& exchange() { return *exchange_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  cudaStream_t compute() { return compute_; }
  cudaStream_t transfer() { return transfer_; }
  uint8_t* host() { return host_; }
  uint8_t* out() { return out_; }
  uint8_t* in() { return in_; }

 private:
  DeviceExchange* const exchange_;
  const int rank_, size_;
  const size_t slot_bytes_;
  const bool orders_streams_;
  cudaStream_t compute_ = nullptr, transfer_ = nullptr;
  cudaEvent_t written_ = nullptr, came_ = nullptr, answered_ = nullptr, returned_ = nullptr, done_ = nullptr;
  uint8_t *out_ = nullptr, *in_ = nullptr, *answer_ = nullptr, *back_ = nullptr, *host_ = nullptr;
  int* round_ = nullptr;
};

std::unique_ptr<DeviceExchange> Prepare(int rank, int size, const Options& options = {}, uint64_t epoch = 7) {
  auto factory = MakeNcclExchangeFactory({.device = rank, .connect_timeout_min = options.connect_timeout_min});
  EXPECT_TRUE(factory.ok()) << factory.status();
  auto exchange = (*factory)->PrepareDevice({.epoch = epoch,
                                             .rank = rank,
                                             .size = size,
                                             .message_bytes_max = kSlotMax,
                                             .timeout = options.timeout,
                                             .connect_timeout = options.connect_timeout});
  EXPECT_TRUE(exchange.ok()) << exchange.status();
  return *std::move(exchange);
}

class NcclExchangeTest : public testing::Test {
 protected:
  NcclExchangeTest() : communicators_before_(fake::NcclCommunicators()) {
    fake::Reset();
    fake::SetDevices(fake::kDevicesMax);
  }
  ~NcclExchangeTest() override {
    simt::SetSeed(0);
    fake::Reset();
  }

  // By the test.
  int CommunicatorsLeft() const { return fake::NcclCommunicators() - communicators_before_; }

  // Runs `body` on `size` threads, each with an exchange and a device of its own, after all have been prepared. They
  // connect in `body`. The exchanges live until all bodies have returned.
  using Body = std::function<void(DeviceExchange& exchange, int rank, std::span<const std::string> addresses)>;
  static void OnEachUnconnected(int size, const Options& options, const Body& body) {
    std::vector<std::string> addresses(size);
    std::vector<std::thread> threads;
    std::barrier prepared(size), finished(size);
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        CUDA_OK(cudaSetDevice(rank));
        planted_bug = options.bug;
        if (rank == 1) fake::SetNcclFaults(options.faults);
        const std::unique_ptr<DeviceExchange> exchange = Prepare(rank, size, options);
        addresses[rank] = exchange->address();
        prepared.arrive_and_wait();
        body(*exchange, rank, addresses);
        finished.arrive_and_wait();
      });
    }
    for (auto& thread : threads) thread.join();
  }
  // The same, connected.
  static void OnEach(int size, size_t slot_bytes, const Options& options, const std::function<void(Rank& rank)>& body) {
    OnEachUnconnected(size, options, [&](DeviceExchange& exchange, int rank, std::span<const std::string> addresses) {
      ASSERT_EQ(exchange.Connect(addresses), absl::OkStatus());
      Rank self(&exchange, rank, size, slot_bytes, options.orders_streams);
      body(self);
    });
  }

 private:
  const int communicators_before_;
};

TEST_F(NcclExchangeTest, CarriesSlotsBetweenAllRanksUnderEverySeed) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    for (int size = 1; size <= 4; ++size) {
      OnEach(size, 64 + seed, {}, [&](Rank& rank) {
        for (int round = 1; round <= 3; ++round) {
          ASSERT_EQ(rank.Step(round), absl::OkStatus()) << "seed " << seed << ", " << size << " ranks";
        }
        EXPECT_TRUE(rank.exchange().suspects().empty());
      });
    }
  }
  EXPECT_EQ(CommunicatorsLeft(), 0) << "left behind";
}

TEST_F(NcclExchangeTest, CarriesSlotsOfEverySize) {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{8192}, size_t{100000}}) {
    if (bytes > 1000 && !simt::kManyThreads) continue;  // one byte a thread
    OnEach(3, bytes, {}, [&](Rank& rank) { ASSERT_EQ(rank.Step(1), absl::OkStatus()) << bytes; });
  }
}

// How much one rank sends to another, in a round; often nothing.
size_t Count(int from, int to, int round, size_t max) {
  const size_t some = (from * 7 + to * 5 + round * 3) % 5;
  return from == round % 3 ? 0 : some * max / 4;
}

TEST_F(NcclExchangeTest, CarriesExactCountsAlsoNone) {
  constexpr size_t kSlot = 96;
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    OnEach(3, kSlot, {}, [&](Rank& rank) {
      for (int round = 1; round <= 5; ++round) {
        std::vector<size_t> out(3), in(3), none(3);
        for (int peer = 0; peer < 3; ++peer) {
          out[peer] = Count(rank.rank(), peer, round, kSlot);
          in[peer] = Count(peer, rank.rank(), round, kSlot);
        }
        CUDA_OK(cudaMemsetAsync(rank.in(), 0xEE, rank.bytes(), rank.transfer()));
        bool there = true;
        rank.Begin(round);
        ASSERT_EQ(rank.Enqueue([&](const void* send, void* received) {
          if (!there) return rank.exchange().AllToAllExact(send, none, received, none, kSlot, rank.transfer());
          there = false;
          return rank.exchange().AllToAllExact(send, out, received, in, kSlot, rank.transfer());
        }),
                  absl::OkStatus());
        ASSERT_EQ(rank.Wait(), absl::OkStatus());
        for (int peer = 0; peer < 3; ++peer) {
          for (size_t i = 0; i < kSlot; ++i) {
            const bool came = peer != rank.rank() && i < in[peer];
            ASSERT_EQ(rank.host()[peer * kSlot + i], came ? Pattern(peer, rank.rank(), round, i) : 0xEE)
                << "byte " << i << " from " << peer << " at " << rank.rank() << ", round " << round;
          }
        }
      }
    });
  }
}

TEST(NcclMemoryBytesTest, IsNoLessThanWhatEightH100sWereSeenToTake) {
  const auto gb = [](int ranks, int communicators, bool nvlink) {
    return 1e-9 * static_cast<double>(NcclMemoryBytes(ranks, communicators, nvlink));
  };
  EXPECT_GE(gb(8, 1, true), 3.28) << "with the first all-to-all of a process";
  EXPECT_LT(gb(8, 1, true), 4);
  EXPECT_LT(gb(8, 2, false), 3) << "a GPU of 24 GB has more to do";
  EXPECT_EQ(gb(1, 2, true), 0) << "a rank alone needs no NCCL";
}

TEST_F(NcclExchangeTest, GathersByRank) {
  OnEach(4, 100, {}, [&](Rank& rank) {
    rank.Begin(1);
    CUDA_OK(cudaMemsetAsync(rank.out(), 10 + rank.rank(), 100, rank.compute()));
    ASSERT_EQ(rank.exchange().AllGather(rank.out(), rank.in(), 100, rank.compute()), absl::OkStatus());
    CUDA_OK(cudaMemcpyAsync(rank.host(), rank.in(), 400, cudaMemcpyDeviceToHost, rank.compute()));
    ASSERT_EQ(rank.Wait(), absl::OkStatus());
    for (int i = 0; i < 400; ++i) ASSERT_EQ(rank.host()[i], 10 + i / 100);
  });
}

TEST_F(NcclExchangeTest, RunsInGraphs) {
  for (const uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    OnEach(3, 80, {}, [&](Rank& rank) {
      const cudaGraphExec_t graph = rank.Capture();
      for (int round = 1; round <= 3; ++round) ASSERT_EQ(rank.StepOf(graph, round), absl::OkStatus()) << seed;
      ASSERT_EQ(rank.Step(4), absl::OkStatus());
      CUDA_OK(cudaGraphExecDestroy(graph));
    });
  }
}

TEST_F(NcclExchangeTest, AbortEndsWhatHangsAndIsForGood) {
  const int aborts = fake::NcclAborts();
  OnEach(2, 64, {}, [&](Rank& rank) {
    ASSERT_EQ(rank.Step(1), absl::OkStatus());
    if (rank.rank() == 1) return;  // never begins step 2
    rank.Begin(2);
    ASSERT_EQ(rank.EnqueueSlots(), absl::OkStatus());
    std::thread other([&] {
      rank.exchange().Abort("epoch 8 began");
      rank.exchange().Abort("and 9");
    });
    const absl::Status status = rank.Wait();
    other.join();
    EXPECT_EQ(status, absl::AbortedError("epoch 8 began"));
    EXPECT_EQ(cudaStreamQuery(rank.transfer()), cudaSuccess) << "has run dry";
    EXPECT_TRUE(rank.exchange().suspects().empty());
    EXPECT_EQ(rank.EnqueueSlots(), status);
    EXPECT_EQ(rank.Wait(), status);
  });
  // One for rank 0; rank 1 ends in peace, or finds that its peer does not.
  EXPECT_LE(fake::NcclAborts(), aborts + 2);
  EXPECT_EQ(CommunicatorsLeft(), 0);
}

// All that the step enqueued is done, and yet it is void: the abort comes between the two.
TEST_F(NcclExchangeTest, BelievesNothingOfAStepInWhichItBroke) {
  OnEach(2, 64, {}, [&](Rank& rank) {
    rank.Begin(1);
    ASSERT_EQ(rank.EnqueueSlots(), absl::OkStatus());
    CUDA_OK(cudaStreamSynchronize(rank.compute()));
    rank.exchange().Abort("epoch 8 began");
    EXPECT_EQ(rank.Wait(), absl::AbortedError("epoch 8 began"));
  });
}

TEST_F(NcclExchangeTest, AbortBeforeConnectMakesItFail) {
  OnEachUnconnected(2, {}, [&](DeviceExchange& exchange, int, std::span<const std::string> addresses) {
    exchange.Abort("never mind");
    EXPECT_EQ(exchange.Connect(addresses), absl::AbortedError("never mind"));
  });
}

TEST_F(NcclExchangeTest, AbortWakesWhoConnects) {
  OnEachUnconnected(2, {}, [&](DeviceExchange& exchange, int rank, std::span<const std::string> addresses) {
    if (rank == 1) return;  // never connects
    std::thread other([&] { exchange.Abort("epoch 8 began"); });
    EXPECT_EQ(exchange.Connect(addresses), absl::AbortedError("epoch 8 began"));
    other.join();
  });
}

TEST_F(NcclExchangeTest, APeerThatDoesNotConnectIsMissedAtTheDeadlineForThat) {
  OnEachUnconnected(3, {.connect_timeout = absl::Milliseconds(300)},
                    [&](DeviceExchange& exchange, int rank, std::span<const std::string> addresses) {
                      if (rank == 2) return;
                      EXPECT_EQ(exchange.Connect(addresses).code(), StatusCode::kDeadlineExceeded);
                      EXPECT_EQ(exchange.suspects(), std::vector<int>{2});
                      EXPECT_EQ(exchange.progress().phase, 0u);
                    });
}

TEST_F(NcclExchangeTest, ConnectHasTheTimeThatNcclNeedsThoughThePeersWouldHaveLess) {
  OnEachUnconnected(2, {.connect_timeout = absl::ZeroDuration(), .connect_timeout_min = absl::Seconds(20)},
                    [](DeviceExchange& exchange, int, std::span<const std::string> addresses) {
                      EXPECT_EQ(exchange.Connect(addresses), absl::OkStatus());
                    });
}

TEST_F(NcclExchangeTest, ASilentPeerIsMissedAtTheDeadline) {
  OnEach(3, 64, {.timeout = absl::Milliseconds(500)}, [&](Rank& rank) {
    if (rank.rank() == 2) return;  // stays alive, says nothing
    EXPECT_EQ(rank.Step(1).code(), StatusCode::kDeadlineExceeded);
    EXPECT_TRUE(rank.exchange().suspects().empty()) << "it is heard, and NCCL does not say who it waits for";
  });
}

TEST_F(NcclExchangeTest, APeerThatIsGoneBeforeItIsReachedIsNamedAtOnce) {
  std::vector<std::string> addresses = {Prepare(0, 2)->address(), ""};
  const std::unique_ptr<DeviceExchange> exchange = Prepare(1, 2, {.connect_timeout = absl::Seconds(100)});
  addresses[1] = exchange->address();
  const absl::Status status = exchange->Connect(addresses);
  EXPECT_EQ(status, absl::UnavailableError("rank 0 is gone: Connection refused"));
  EXPECT_EQ(exchange->suspects(), std::vector<int>{0});
}

// What the link of one rank to another runs through, to be cut.
class Wire {
 public:
  // To where `address` says.
  explicit Wire(const std::string& address) : address_(address) {
    std::memcpy(&to_.sin_port, address_.data() + PortAt(), sizeof(to_.sin_port));
    sockaddr_in at = to_;
    at.sin_port = 0;
    socklen_t bytes = sizeof(at);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&at), bytes), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &bytes), 0);
    std::memcpy(address_.data() + PortAt(), &at.sin_port, sizeof(at.sin_port));
    thread_ = std::thread([this] { Carry(); });
  }
  ~Wire() {
    done_ = true;
    thread_.join();
    for (const int fd : {listener_, ends_[0], ends_[1]}) close(fd);
  }

  // The same, to be reached through this wire.
  const std::string& address() const { return address_; }
  void Cut() { cut_ = true; }  // nothing comes out any more
  void Tear() { torn_ = true; }

 private:
  size_t PortAt() const { return address_.size() - PeerLinks::kTicketBytes + 6; }
  void Carry() {
    while (!done_) {
      pollfd fds[] = {{ends_[0] < 0 ? listener_ : ends_[0], POLLIN, 0}, {ends_[1], POLLIN, 0}};
      if (poll(fds, 2, 1) > 0 && ends_[0] < 0) {
        ends_[0] = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        ends_[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        EXPECT_EQ(connect(ends_[1], reinterpret_cast<sockaddr*>(&to_), sizeof(to_)), 0);
      } else {
        for (int end : {0, 1}) {
          char bytes[256];
          const ssize_t count = fds[end].revents != 0 ? recv(ends_[end], bytes, sizeof(bytes), MSG_DONTWAIT) : 0;
          if (count > 0 && !cut_) send(ends_[1 - end], bytes, static_cast<size_t>(count), MSG_NOSIGNAL);
        }
      }
      if (!torn_) continue;
      for (const int end : ends_) shutdown(end, SHUT_RDWR);
    }
  }

  std::string address_;
  sockaddr_in to_ = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
  const int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int ends_[2] = {-1, -1};
  std::atomic<bool> cut_ = false, torn_ = false, done_ = false;
  std::thread thread_;
};

// Three ranks, the last two of which are joined by a wire.
class WiredTest : public NcclExchangeTest {
 protected:
  // `connected`: a rank's Connect has returned.
  void OnEach(const Options& options,
              const std::function<void(DeviceExchange& exchange, int rank, const absl::Status& connected)>& body) {
    std::barrier wired(3);
    OnEachUnconnected(3, options, [&](DeviceExchange& exchange, int rank, std::span<const std::string> addresses) {
      std::vector<std::string> wired_addresses(addresses.begin(), addresses.end());
      if (rank == 2) {
        wire_.emplace(addresses[1]);
        if (cut_from_the_start_) wire_->Cut();
        wired_addresses[1] = wire_->address();
      }
      wired.arrive_and_wait();
      body(exchange, rank, exchange.Connect(wired_addresses));
    });
  }
  // Who is to blame, as each rank sees it.
  static std::vector<int> Blamed(int rank) { return rank == 0 ? std::vector<int>{1, 2} : std::vector<int>{3 - rank}; }

  std::optional<Wire> wire_;
  bool cut_from_the_start_ = false;
};

TEST_F(WiredTest, RanksThatDoNotReachEachOtherAreNamedInTheirSetUp) {
  cut_from_the_start_ = true;
  OnEach({.connect_timeout = absl::Seconds(1)}, [&](DeviceExchange& exchange, int rank, const absl::Status& connected) {
    EXPECT_EQ(connected.code(), StatusCode::kDeadlineExceeded) << connected;
    EXPECT_EQ(exchange.suspects(), Blamed(rank)) << "at rank " << rank;
    EXPECT_EQ(exchange.AllToAll(nullptr, nullptr, 0, nullptr), connected);
  });
}

TEST_F(WiredTest, AStepWaitsForRanksThatAreCutOffAndOnlyForThose) {
  std::atomic<int> told = 0;
  OnEach({.timeout = absl::Seconds(100)}, [&](DeviceExchange& exchange, int rank, const absl::Status& connected) {
    ASSERT_EQ(connected, absl::OkStatus());
    Rank self(&exchange, rank, 3, 64);
    ASSERT_EQ(self.Step(1), absl::OkStatus());
    EXPECT_TRUE(exchange.progress().waiting_for.empty()) << "no step goes on";
    if (rank == 2) wire_->Cut();
    self.Begin(2);
    if (rank != 2) {
      ASSERT_EQ(self.EnqueueSlots(), absl::OkStatus());
    }
    const std::vector<int> cut_off = rank == 0 ? std::vector<int>() : std::vector<int>{3 - rank};
    // The router takes it from here.
    while (exchange.progress().waiting_for != cut_off || (rank == 0 && told < 2)) sched_yield();
    EXPECT_EQ(exchange.progress().phase, 2u);
    ++told;
    while (told < 3) sched_yield();
    exchange.Abort("epoch 8 began");
    const absl::Status status = self.Wait();  // or another rank's abort was the first
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(exchange.AllToAll(nullptr, nullptr, 0, nullptr), status);
  });
}

TEST_F(WiredTest, RanksWhoseConnectionBreaksNameEachOtherAtOnce) {
  std::barrier stepped(3);
  OnEach({.timeout = absl::Seconds(100)}, [&](DeviceExchange& exchange, int rank, const absl::Status& connected) {
    ASSERT_EQ(connected, absl::OkStatus());
    Rank self(&exchange, rank, 3, 64);
    EXPECT_EQ(self.Step(1), absl::OkStatus());
    stepped.arrive_and_wait();
    if (rank == 0) return;  // nor does it begin step 2
    if (rank == 2) wire_->Tear();
    const absl::Status status = self.Step(2);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
    EXPECT_EQ(exchange.suspects(), Blamed(rank));
    EXPECT_EQ(exchange.AllToAll(nullptr, nullptr, 0, nullptr), status);
    EXPECT_EQ(self.Wait(), status);
  });
}

TEST_F(NcclExchangeTest, TheDeadlineIsTheStepsAlsoBehindAWaitInItsMiddle) {
  OnEach(2, 64, {.timeout = absl::Milliseconds(500)}, [&](Rank& rank) {
    rank.Begin(1);
    ASSERT_EQ(rank.EnqueueSlots(), absl::OkStatus());
    ASSERT_EQ(rank.Wait(), absl::OkStatus());  // as for counts
    if (rank.rank() == 1) return;
    ASSERT_EQ(rank.EnqueueSlots(), absl::OkStatus());
    EXPECT_EQ(rank.Wait().code(), StatusCode::kDeadlineExceeded);
  });
}

TEST_F(NcclExchangeTest, APeerThatDiesInAStepIsMissedLongBeforeTheDeadline) {
  for (const uint64_t seed : {0, 1, 2, 3}) {
    simt::SetSeed(seed);
    const Options options = {.timeout = absl::Seconds(100), .faults = {.dies_at_group = 3}};
    OnEach(3, 64, options, [&](Rank& rank) {
      ASSERT_EQ(rank.Step(1), absl::OkStatus());
      const absl::Status status = rank.Step(2);
      EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
    });
  }
}

TEST_F(NcclExchangeTest, TellsOtherThreadsHowFarItIs) {
  std::atomic<bool> asked = false;
  OnEach(2, 64, {}, [&](Rank& rank) {
    EXPECT_EQ(rank.exchange().progress().phase, 0u);
    std::thread other;
    if (rank.rank() == 0) {
      other = std::thread([&] {
        ExchangeProgress progress;
        do {
          progress = rank.exchange().progress();
          sched_yield();
        } while (progress.phase != 5 || progress.waited == absl::ZeroDuration());
        asked = true;
      });
    } else {
      while (!asked) sched_yield();
    }
    EXPECT_EQ(rank.Step(5), absl::OkStatus());
    if (rank.rank() == 0) other.join();
    EXPECT_EQ(rank.exchange().progress().phase, 5u);
    EXPECT_EQ(rank.exchange().progress().waited, absl::ZeroDuration());
    EXPECT_TRUE(rank.exchange().progress().waiting_for.empty());
  });
}

TEST_F(NcclExchangeTest, TheNextEpochIsSetUpBesideThisOne) {
  std::vector<std::string> next_addresses(2);
  std::barrier prepared(2), connected(2);
  OnEach(2, 64, {}, [&](Rank& rank) {
    const std::unique_ptr<DeviceExchange> next = Prepare(rank.rank(), 2, {}, 8);
    next_addresses[rank.rank()] = next->address();
    prepared.arrive_and_wait();
    const cudaGraphExec_t graph = rank.Capture();
    std::atomic<bool> ready = false;
    std::thread set_up([&] {
      EXPECT_EQ(next->Connect(next_addresses), absl::OkStatus());
      ready = true;
    });
    // As many steps as the other rank has.
    for (int round = 1; round <= 6; ++round) ASSERT_EQ(rank.StepOf(graph, round), absl::OkStatus());
    set_up.join();
    connected.arrive_and_wait();
    CUDA_OK(cudaGraphExecDestroy(graph));
    rank.exchange().Abort("epoch 8 began");
    Rank again(next.get(), rank.rank(), 2, 64);
    for (int round = 1; round <= 3; ++round) ASSERT_EQ(again.Step(round), absl::OkStatus());
    EXPECT_EQ(rank.Step(7).code(), StatusCode::kAborted);
    connected.arrive_and_wait();
  });
}

TEST_F(NcclExchangeTest, AGraphThatIsStillAliveKeepsNobodyWaiting) {
  OnEach(2, 64, {}, [&](Rank& rank) {
    const cudaGraphExec_t graph = rank.Capture();
    ASSERT_EQ(rank.StepOf(graph, 1), absl::OkStatus());
    if (rank.rank() == 0) {
      rank.Begin(2);
      CUDA_OK(cudaGraphLaunch(graph, rank.compute()));
      rank.exchange().Abort("epoch 8 began");
      EXPECT_EQ(rank.Wait().code(), StatusCode::kAborted);
    }
    CUDA_OK(cudaGraphExecDestroy(graph));
  });
  EXPECT_EQ(CommunicatorsLeft(), 0);
}

TEST_F(NcclExchangeTest, WrongAddressesAreRefusedByName) {
  const auto connect = [&](ExchangeOptions other, std::string (*change)(std::string) = nullptr) {
    const std::unique_ptr<DeviceExchange> here = Prepare(0, 2);
    auto there = (*MakeNcclExchangeFactory({.device = 1}))->PrepareDevice(other);
    std::string address = (*there)->address();
    const std::vector<std::string> addresses = {here->address(), change ? change(address) : address};
    return here->Connect(addresses);
  };
  const auto refuses = [](const absl::Status& status) {
    return status.code() == StatusCode::kInvalidArgument &&
           std::string(status.message()).find("rank 1") != std::string::npos;
  };
  const ExchangeOptions right = {.epoch = 7, .rank = 1, .size = 2, .message_bytes_max = kSlotMax};
  ExchangeOptions wrong = right;
  wrong.epoch = 6;
  EXPECT_TRUE(refuses(connect(wrong)));
  wrong = right;
  wrong.rank = 0;
  EXPECT_TRUE(refuses(connect(wrong)));
  wrong = right;
  wrong.size = 3;
  EXPECT_TRUE(refuses(connect(wrong)));
  wrong = right;
  wrong.message_bytes_max = 1;
  EXPECT_TRUE(refuses(connect(wrong)));
  EXPECT_TRUE(refuses(connect(right, [](std::string address) { return address.substr(0, address.size() - 1); })));
  EXPECT_TRUE(refuses(connect(right, [](std::string) { return std::string("junk"); })));
  EXPECT_EQ(Prepare(0, 2)->Connect(std::vector<std::string>(3)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(CommunicatorsLeft(), 0);
}

TEST_F(NcclExchangeTest, TwoRanksOnOneDeviceAreRefused) {
  std::vector<std::unique_ptr<DeviceExchange>> exchanges(2);
  std::vector<std::string> addresses(2);
  for (int rank = 0; rank < 2; ++rank) {
    exchanges[rank] = *(*MakeNcclExchangeFactory({.device = 3}))
                           ->PrepareDevice({.epoch = 7, .rank = rank, .size = 2, .message_bytes_max = kSlotMax});
    addresses[rank] = exchanges[rank]->address();
  }
  const auto connect = [&](int rank) {
    const absl::Status status = exchanges[rank]->Connect(addresses);
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << status;
    EXPECT_NE(std::string(status.message()).find("--device cuda:i"), std::string::npos) << status;
  };
  std::thread second([&] { connect(1); });
  connect(0);
  second.join();
}

TEST_F(NcclExchangeTest, SizesThatDisagreeAreAnError) {
  OnEach(2, 64, {}, [&](Rank& rank) {
    rank.Begin(1);
    const std::vector<size_t> counts(2, rank.rank() == 0 ? 64 : 60);
    // Found by the second of the two exchanges at the earliest.
    const absl::Status enqueued = rank.Enqueue([&](const void* send, void* received) {
      return rank.exchange().AllToAllExact(send, counts, received, counts, 64, rank.transfer());
    });
    EXPECT_FALSE(enqueued.ok() && rank.Wait().ok());
  });
}

TEST_F(NcclExchangeTest, AFailedDeviceSaysSo) {
  OnEach(2, 64, {.timeout = absl::Milliseconds(500)}, [&](Rank& rank) {
    if (rank.rank() == 1) return;
    rank.Begin(1);
    CUDA_OK(Launch(WaitsInOneBranch, dim3(1), dim3(32), 0, rank.compute()));
    const absl::Status status = rank.Wait();
    EXPECT_EQ(status.code(), StatusCode::kInternal) << status;
  });
}

// ---- Mistakes on purpose: each must be noticed, or these tests are blind.

// The first trouble that any rank has in a few rounds.
absl::Status TroubleWith(
    const Options& options,
    const std::function<void(int size, size_t, const Options&, const std::function<void(Rank&)>&)>& on_each) {
  absl::Status first;
  std::mutex mutex;
  on_each(2, 64, options, [&](Rank& rank) {
    for (int round = 1; round <= 3; ++round) {
      const absl::Status status = rank.Step(round);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (first.ok()) first = status;
      return;
    }
  });
  return first;
}

TEST_F(NcclExchangeTest, FindsAWrongCount) {
  const absl::Status status = TroubleWith({.bug = Bug::kSendsAWrongCount}, OnEach);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(std::string(status.message()).find("expected 64 bytes"), std::string::npos) << status;
}

TEST_F(NcclExchangeTest, FindsUngroupedSends) {
  EXPECT_FALSE(TroubleWith({.timeout = absl::Milliseconds(500), .bug = Bug::kSendsUngrouped}, OnEach).ok());
}

// What ThreadSanitizer finds ends the program.
void ExpectRace(const std::function<void()>& run) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run_and_exit = [&] {
    run();
    std::exit(0);
  };
  EXPECT_EXIT(run_and_exit(), testing::ExitedWithCode(66), "data race");
}

TEST_F(NcclExchangeTest, FindsALaunchThatIsNotAwaited) {
  const Options options = {.timeout = absl::Milliseconds(500), .bug = Bug::kForgetsToAwaitTheLaunch};
  if (!simt::kManyThreads) return ExpectRace([&] { TroubleWith(options, OnEach).IgnoreError(); });
  EXPECT_FALSE(TroubleWith(options, OnEach).ok());
}

TEST_F(NcclExchangeTest, FindsAStreamThatDoesNotWaitForAnother) {
  const Options options = {.orders_streams = false};
  if (!simt::kManyThreads) return ExpectRace([&] { TroubleWith(options, OnEach).IgnoreError(); });
  int wrong = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    simt::SetSeed(seed);
    const absl::Status status = TroubleWith(options, OnEach);
    EXPECT_TRUE(status.ok() || status == absl::InternalError(kWrongBytes)) << status;
    wrong += !status.ok();
  }
  EXPECT_GE(wrong, 5) << "of ten seeds";
}

TEST_F(NcclExchangeTest, FindsThatAnAbortedExchangeIsBelieved) {
  std::atomic<int> believed = 0;
  OnEach(2, 64, {.bug = Bug::kBelievesWhatWasAborted}, [&](Rank& rank) {
    if (rank.rank() == 1) return;
    rank.Begin(1);
    ASSERT_EQ(rank.EnqueueSlots(), absl::OkStatus());
    rank.exchange().Abort("epoch 8 began");
    while (cudaStreamQuery(rank.compute()) == cudaErrorNotReady) sched_yield();  // runs dry by the abort
    if (rank.Wait().ok() && !rank.Check(1).ok()) ++believed;
  });
  EXPECT_EQ(believed, 1) << "an abort leaves half a buffer, and this bug takes it for a whole one";
}

TEST_F(NcclExchangeTest, FindsThatNobodyWatches) {
  std::atomic<int> unnoticed = 0;
  OnEach(3, 64, {.bug = Bug::kNobodyWatches, .faults = {.dies_at_group = 2}}, [&](Rank& rank) {
    const cudaGraphExec_t graph = rank.Capture();
    ASSERT_EQ(rank.StepOf(graph, 1), absl::OkStatus());
    std::thread rescue([&] {
      absl::SleepFor(absl::Milliseconds(300));
      rank.exchange().Abort("nobody noticed");
    });
    unnoticed += std::string(rank.StepOf(graph, 2).message()).find("nobody noticed") != std::string::npos;
    rescue.join();
    CUDA_OK(cudaGraphExecDestroy(graph));
  });
  EXPECT_EQ(unnoticed, 3) << "who notices a dead rank while the host only waits, if not the watch?";
}

// ---- Ranks that are processes.

constexpr int kParentSocket = 3;  // in a child
constexpr char kRankVariable[] = "NCCL_EXCHANGE_TEST_RANK", kSizeVariable[] = "NCCL_EXCHANGE_TEST_SIZE";

// What the other processes of the test below run. All devices are device 0 of their process.
TEST(NcclPeer, DISABLED_IsARank) {
  const int rank = atoi(getenv(kRankVariable)), size = atoi(getenv(kSizeVariable));
  auto exchange = *(*MakeNcclExchangeFactory({}))
                       ->PrepareDevice({.epoch = 7, .rank = rank, .size = size, .message_bytes_max = kSlotMax});
  SendBlob(kParentSocket, exchange->address());
  std::vector<std::string> addresses(size);
  for (std::string& address : addresses) address = ReceiveBlob(kParentSocket);
  ASSERT_EQ(exchange->Connect(addresses), absl::OkStatus());
  Rank self(exchange.get(), rank, size, 200);
  for (int round = 1; round <= 4; ++round) {
    const absl::Status status = self.Step(round);
    SendBlob(kParentSocket, status.ToString());
    if (!status.ok()) break;
  }
  ReceiveBlob(kParentSocket);  // may go
}

pid_t SpawnRank(int rank, int size, int socket, const char* kill_at_group) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, kParentSocket);
  std::string arguments[] = {"nccl_exchange_test", "--gtest_also_run_disabled_tests", "--gtest_filter=NcclPeer.*"};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  setenv(kRankVariable, std::to_string(rank).c_str(), 1);
  setenv(kSizeVariable, std::to_string(size).c_str(), 1);
  kill_at_group ? setenv("FAKE_NCCL_KILL_AT_GROUP", kill_at_group, 1) : unsetenv("FAKE_NCCL_KILL_AT_GROUP");
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  unsetenv("FAKE_NCCL_KILL_AT_GROUP");
  return child;
}

struct Processes {
  Processes(int size, const char* kill_last_at_group) {
    for (int rank = 0; rank < size; ++rank) {
      int pair[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      sockets.push_back(pair[0]);
      children.push_back(SpawnRank(rank, size, pair[1], rank == size - 1 ? kill_last_at_group : nullptr));
      close(pair[1]);
    }
    std::vector<std::string> addresses;
    for (const int fd : sockets) addresses.push_back(ReceiveBlob(fd));
    for (const int fd : sockets) {
      for (const std::string& address : addresses) SendBlob(fd, address);
    }
  }
  ~Processes() {
    for (const int fd : sockets) close(fd);
    for (const pid_t child : children) waitpid(child, nullptr, 0);
  }
  std::vector<int> sockets;
  std::vector<pid_t> children;
};

TEST(NcclProcesses, CarrySlotsBetweenAllRanks) {
  for (int size = 2; size <= 4; ++size) {
    Processes processes(size, nullptr);
    for (int round = 1; round <= 4; ++round) {
      for (const int fd : processes.sockets) ASSERT_EQ(ReceiveBlob(fd), "OK");
    }
    for (const int fd : processes.sockets) SendBlob(fd, "go");
  }
}

TEST(NcclProcesses, OneThatIsKilledIsMissedAndNamed) {
  for (int size = 2; size <= 4; ++size) {
    Processes processes(size, "3");  // in the middle of round 2
    int status = 0;
    ASSERT_EQ(waitpid(processes.children.back(), &status, WNOHANG), 0);
    for (int rank = 0; rank < size - 1; ++rank) {
      ASSERT_EQ(ReceiveBlob(processes.sockets[rank]), "OK");
      const std::string said = ReceiveBlob(processes.sockets[rank]);
      EXPECT_EQ(said.find("UNAVAILABLE: rank " + std::to_string(size - 1) + " is gone: "), 0u) << said;
    }
    for (int rank = 0; rank < size - 1; ++rank) SendBlob(processes.sockets[rank], "go");
    ASSERT_EQ(waitpid(processes.children.back(), &status, 0), processes.children.back());
    EXPECT_TRUE(WIFSIGNALED(status));
    processes.children.pop_back();
  }
}

}  // namespace
}  // namespace braid::gpu
