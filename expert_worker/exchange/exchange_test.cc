#include "expert_worker/exchange/exchange.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <functional>
#include <thread>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "expert_worker/exchange/in_process.h"
#include "expert_worker/exchange/test_blobs.h"
#include "expert_worker/exchange/ucx.h"

// The same claims over every transport; the ranks are threads of this process.

namespace braid {
namespace {

using absl::StatusCode;

constexpr size_t kMessageMax = 1 << 20;

struct Transport {
  std::string name;
  std::function<std::unique_ptr<HostExchangeFactory>()> make;
};

std::unique_ptr<HostExchangeFactory> Ucx(const std::string& transports) {
  auto factory = MakeUcxExchangeFactory({.transports = transports});
  EXPECT_TRUE(factory.ok()) << factory.status();
  return factory.ok() ? *std::move(factory) : nullptr;
}

class ExchangeTest : public testing::TestWithParam<Transport> {
 protected:
  // Runs `body` on `size` threads, each with an exchange of its own, after all have been prepared. They connect in
  // `body`. The exchanges live until all bodies have returned.
  using Body = std::function<void(HostExchange& exchange, int rank, std::span<const std::string> addresses)>;
  void OnEachRank(int size, const Body& body, absl::Duration timeout = absl::Seconds(20),
                  absl::Duration connect_timeout = absl::Seconds(20)) {
    std::vector<std::string> addresses(size);
    std::vector<std::thread> threads;
    absl::Barrier* const prepared = new absl::Barrier(size);
    absl::Barrier* const finished = new absl::Barrier(size);
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        auto factory = GetParam().make();
        auto exchange = factory->PrepareHost({.epoch = 7,
                                              .rank = rank,
                                              .size = size,
                                              .message_bytes_max = kMessageMax,
                                              .timeout = timeout,
                                              .connect_timeout = connect_timeout});
        if (exchange.ok()) addresses[rank] = (*exchange)->address();
        if (prepared->Block()) delete prepared;
        EXPECT_TRUE(exchange.ok()) << exchange.status();
        if (exchange.ok()) body(**exchange, rank, addresses);
        if (finished->Block()) delete finished;
      });
    }
    for (auto& thread : threads) thread.join();
  }
};

std::byte Pattern(int from, int to, uint64_t sequence, size_t i) {
  return static_cast<std::byte>(from * 31 + to * 7 + sequence * 3 + i);
}

absl::Status ExchangePatterns(HostExchange& exchange, int rank, int size, uint64_t sequence, size_t bytes) {
  std::vector<size_t> sizes(size);
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    sizes[peer] = bytes;
    for (size_t i = 0; i < bytes; ++i) exchange.Outgoing(peer)[i] = Pattern(rank, peer, sequence, i);
  }
  absl::Status status = exchange.AllToAll(sequence, sizes);
  if (!status.ok()) return status;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    if (exchange.Incoming(peer).size() != bytes) return absl::InternalError("wrong length");
    for (size_t i = 0; i < bytes; ++i) {
      if (exchange.Incoming(peer)[i] != Pattern(peer, rank, sequence, i)) return absl::InternalError("wrong bytes");
    }
  }
  return absl::OkStatus();
}

TEST_P(ExchangeTest, CarriesEverySizeBetweenAllRanks) {
  for (int size = 1; size <= 4; ++size) {
    OnEachRank(size, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
      ASSERT_TRUE(exchange.Connect(addresses).ok());
      uint64_t sequence = 0;
      for (size_t bytes :
           {size_t{0}, size_t{1}, size_t{63}, size_t{8192}, size_t{100000}, size_t{300000}, kMessageMax}) {
        const absl::Status status = ExchangePatterns(exchange, rank, size, ++sequence, bytes);
        ASSERT_TRUE(status.ok()) << status << " at " << bytes << " bytes, " << size << " ranks";
      }
      EXPECT_TRUE(exchange.suspects().empty());
    });
  }
}

TEST_P(ExchangeTest, CarriesManyPhasesWithoutMixingThem) {
  OnEachRank(3, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    ASSERT_TRUE(exchange.Connect(addresses).ok());
    for (uint64_t sequence = 1; sequence <= 200; ++sequence) {
      ASSERT_TRUE(ExchangePatterns(exchange, rank, 3, sequence, (sequence * 977 + 13) % 5000).ok());
    }
    EXPECT_GT(exchange.waited(), absl::ZeroDuration());
  });
}

TEST_P(ExchangeTest, GivesAlignedBuffers) {
  OnEachRank(2, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    ASSERT_TRUE(exchange.Connect(addresses).ok());
    ASSERT_TRUE(ExchangePatterns(exchange, rank, 2, 1, 64).ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(exchange.Outgoing(1 - rank).data()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(exchange.Incoming(1 - rank).data()) % 64, 0u);
  });
}

TEST_P(ExchangeTest, AbortWakesAWaiter) {
  OnEachRank(2, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    ASSERT_TRUE(exchange.Connect(addresses).ok());
    if (rank == 1) return;  // never sends phase 1
    std::thread other([&] { exchange.Abort("epoch 8 began"); });
    const absl::Status status = exchange.AllToAll(1, std::vector<size_t>(2));
    other.join();
    EXPECT_EQ(status, absl::AbortedError("epoch 8 began"));
    EXPECT_TRUE(exchange.suspects().empty());
    EXPECT_EQ(exchange.AllToAll(2, std::vector<size_t>(2)), status) << "a failure is for good";
  });
}

TEST_P(ExchangeTest, AbortBeforeConnectMakesItFail) {
  OnEachRank(2, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    exchange.Abort("never mind");
    EXPECT_EQ(exchange.Connect(addresses).code(), StatusCode::kAborted);
  });
}

TEST_P(ExchangeTest, AbortWakesWhoConnects) {
  OnEachRank(2, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    if (rank == 1) return;  // never connects
    std::thread other([&] { exchange.Abort("epoch 8 began"); });
    EXPECT_EQ(exchange.Connect(addresses), absl::AbortedError("epoch 8 began"));
    other.join();
  });
}

TEST_P(ExchangeTest, APeerThatDoesNotConnectIsSuspectedAtTheDeadlineForThat) {
  OnEachRank(
      3,
      [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
        if (rank == 2) return;
        EXPECT_EQ(exchange.Connect(addresses).code(), StatusCode::kDeadlineExceeded);
        EXPECT_EQ(exchange.suspects(), std::vector<int>{2});
        EXPECT_EQ(exchange.progress().phase, 0u);
      },
      /*timeout=*/absl::Seconds(100), /*connect_timeout=*/absl::Milliseconds(700));
}

TEST_P(ExchangeTest, TellsOtherThreadsHowFarItIs) {
  absl::Notification asked;
  OnEachRank(3, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    ASSERT_TRUE(exchange.Connect(addresses).ok());
    EXPECT_EQ(exchange.progress().phase, 0u);
    EXPECT_TRUE(exchange.progress().waiting_for.empty());
    if (rank == 2) asked.WaitForNotification();
    std::thread other;
    if (rank == 0) {
      other = std::thread([&] {
        ExchangeProgress progress;
        do {
          progress = exchange.progress();
          // Never of another phase.
          EXPECT_TRUE(progress.phase == 5 || progress.waiting_for.empty());
        } while (progress.waiting_for != std::vector<int>{2} || progress.waited == absl::ZeroDuration());
        EXPECT_EQ(progress.phase, 5u);
        asked.Notify();
      });
    }
    EXPECT_EQ(ExchangePatterns(exchange, rank, 3, 5, 1000), absl::OkStatus());
    if (rank == 0) other.join();
    EXPECT_EQ(exchange.progress().phase, 5u);
    EXPECT_TRUE(exchange.progress().waiting_for.empty());
    EXPECT_EQ(exchange.progress().waited, absl::ZeroDuration());
  });
}

TEST_P(ExchangeTest, ASilentPeerIsSuspectedAtTheDeadline) {
  OnEachRank(
      3,
      [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
        ASSERT_TRUE(exchange.Connect(addresses).ok());
        if (rank == 2) return;  // stays alive, says nothing
        EXPECT_EQ(exchange.AllToAll(1, std::vector<size_t>(3)).code(), StatusCode::kDeadlineExceeded);
        EXPECT_EQ(exchange.suspects(), std::vector<int>{2});
      },
      absl::Milliseconds(1500));
}

TEST_P(ExchangeTest, AnotherPhaseIsRefused) {
  OnEachRank(2, [&](HostExchange& exchange, int rank, std::span<const std::string> addresses) {
    ASSERT_TRUE(exchange.Connect(addresses).ok());
    EXPECT_EQ(exchange.AllToAll(10 + rank, std::vector<size_t>(2)).code(), StatusCode::kDataLoss);
    EXPECT_EQ(exchange.suspects(), std::vector<int>{1 - rank});
  });
}

TEST_P(ExchangeTest, AddressesOfAnotherEpochRankOrSizeAreRefused) {
  auto factory = GetParam().make();
  const ExchangeOptions options = {.epoch = 7, .rank = 0, .size = 2, .message_bytes_max = kMessageMax};
  const auto connect = [&](ExchangeOptions other) {
    auto here = factory->PrepareHost(options);
    auto there = factory->PrepareHost(other);
    EXPECT_TRUE(here.ok() && there.ok());
    const std::vector<std::string> addresses = {(*here)->address(), (*there)->address()};
    return (*here)->Connect(addresses);
  };
  EXPECT_EQ(connect({.epoch = 6, .rank = 1, .size = 2, .message_bytes_max = kMessageMax}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(connect({.epoch = 7, .rank = 0, .size = 2, .message_bytes_max = kMessageMax}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(connect({.epoch = 7, .rank = 1, .size = 2, .message_bytes_max = 1}).code(), StatusCode::kInvalidArgument);
  auto here = factory->PrepareHost(options);
  const std::vector<std::string> junk = {(*here)->address(), "junk"};
  EXPECT_EQ((*here)->Connect(junk).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ((*factory->PrepareHost(options))->Connect(std::vector<std::string>(3)).code(),
            StatusCode::kInvalidArgument);
}

// Threads of one process over shared memory are left out: there UCX sees only the death of processes, see below.
TEST_P(ExchangeTest, APeerThatIsGoneIsAnErrorThatNamesIt) {
  if (GetParam().name == "UcxSharedMemory") GTEST_SKIP() << "needs another process";
  std::string addresses[2];
  absl::Barrier* const prepared = new absl::Barrier(2);
  const auto run = [&](int rank) {
    auto factory = GetParam().make();
    auto exchange = factory->PrepareHost(
        {.epoch = 7, .rank = rank, .size = 2, .message_bytes_max = kMessageMax, .timeout = absl::Seconds(20)});
    ASSERT_TRUE(exchange.ok());
    addresses[rank] = (*exchange)->address();
    if (prepared->Block()) delete prepared;
    ASSERT_TRUE((*exchange)->Connect(addresses).ok());
    ASSERT_TRUE(ExchangePatterns(**exchange, rank, 2, 1, 1000).ok());
    if (rank == 1) return;  // destroys its end
    EXPECT_EQ(ExchangePatterns(**exchange, rank, 2, 2, 1000).code(), StatusCode::kUnavailable);
    EXPECT_EQ((*exchange)->suspects(), std::vector<int>{1});
  };
  std::thread second([&] { run(1); });
  run(0);
  second.join();
}

TEST_P(ExchangeTest, AFactoryServesManyEpochs) {
  auto first = GetParam().make(), second = GetParam().make();
  for (uint64_t epoch = 1; epoch <= 5; ++epoch) {
    auto a = first->PrepareHost({.epoch = epoch, .rank = 0, .size = 2, .message_bytes_max = kMessageMax});
    auto b = second->PrepareHost({.epoch = epoch, .rank = 1, .size = 2, .message_bytes_max = kMessageMax});
    ASSERT_TRUE(a.ok() && b.ok());
    const std::vector<std::string> addresses = {(*a)->address(), (*b)->address()};
    std::thread other([&] {
      EXPECT_EQ((*b)->Connect(addresses), absl::OkStatus());
      EXPECT_EQ(ExchangePatterns(**b, 1, 2, epoch, 100), absl::OkStatus());
    });
    EXPECT_EQ((*a)->Connect(addresses), absl::OkStatus());
    EXPECT_EQ(ExchangePatterns(**a, 0, 2, epoch, 100), absl::OkStatus());
    other.join();
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, ExchangeTest,
                         testing::Values(Transport{"InProcess", [] { return MakeInProcessExchangeFactory(); }},
                                         Transport{"UcxSharedMemory", [] { return Ucx("tcp,posix,self"); }},
                                         Transport{"UcxTcp", [] { return Ucx("tcp,self"); }}),
                         [](const auto& info) { return info.param.name; });

constexpr int kPeerSocket = 3;  // in the child

std::unique_ptr<HostExchange> ConnectOverSocket(HostExchangeFactory& factory, int rank, int fd) {
  auto exchange = factory.PrepareHost(
      {.epoch = 7, .rank = rank, .size = 2, .message_bytes_max = kMessageMax, .timeout = absl::Seconds(20)});
  EXPECT_TRUE(exchange.ok()) << exchange.status();
  SendBlob(fd, (*exchange)->address());
  std::string addresses[2];
  addresses[rank] = (*exchange)->address();
  addresses[1 - rank] = ReceiveBlob(fd);
  EXPECT_EQ((*exchange)->Connect(addresses), absl::OkStatus());
  return *std::move(exchange);
}

constexpr char kTransportsVariable[] = "EXCHANGE_TEST_TRANSPORTS";

// The other process of the test below, which starts this program again for it.
TEST(UcxPeer, DISABLED_DiesWhileItIsWaitedFor) {
  auto factory = Ucx(getenv(kTransportsVariable));
  auto exchange = ConnectOverSocket(*factory, 1, kPeerSocket);
  EXPECT_EQ(ExchangePatterns(*exchange, 1, 2, 1, 1000), absl::OkStatus());
  ReceiveBlob(kPeerSocket);
  raise(SIGKILL);
}

pid_t SpawnPeer(const std::string& transports, int socket) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, kPeerSocket);
  std::string arguments[] = {"exchange_test", "--gtest_also_run_disabled_tests", "--gtest_filter=UcxPeer.*"};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  setenv(kTransportsVariable, transports.c_str(), 1);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return child;
}

class UcxDeathTest : public testing::TestWithParam<std::string> {};

TEST_P(UcxDeathTest, AProcessThatIsKilledIsMissedLongBeforeTheDeadline) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const pid_t child = SpawnPeer(GetParam(), sockets[1]);
  close(sockets[1]);
  auto factory = Ucx(GetParam());
  auto exchange = ConnectOverSocket(*factory, 0, sockets[0]);
  EXPECT_EQ(ExchangePatterns(*exchange, 0, 2, 1, 1000), absl::OkStatus());
  std::thread killer([&] {
    while (exchange->progress().waiting_for.empty()) sched_yield();
    SendBlob(sockets[0], "die");
  });
  const absl::Time start = absl::Now();
  EXPECT_EQ(ExchangePatterns(*exchange, 0, 2, 2, 1000).code(), StatusCode::kUnavailable);
  RecordProperty("noticed_after_ms", static_cast<int>(absl::ToInt64Milliseconds(absl::Now() - start)));
  EXPECT_EQ(exchange->suspects(), std::vector<int>{1});
  killer.join();
  int how = 0;  // only now: nobody else may have waited for it either
  ASSERT_EQ(waitpid(child, &how, 0), child);
  EXPECT_TRUE(WIFSIGNALED(how));
  close(sockets[0]);
}

INSTANTIATE_TEST_SUITE_P(Transports, UcxDeathTest, testing::Values("tcp,posix,self", "tcp,self"),
                         [](const auto& info) { return info.index == 0 ? "SharedMemory" : "Tcp"; });

TEST(Ucx, RefusesUnknownTransports) {
  EXPECT_EQ(MakeUcxExchangeFactory({.transports = "pigeon"}).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace braid
