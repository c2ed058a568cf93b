// What the fake NCCL promises, and what it finds.

#include "tests/cuda_emulator/fake_nccl.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "tests/cuda_emulator/fake_cuda.h"

namespace fake {
namespace {

constexpr size_t kBytes = 64;

// One rank: a device, a stream, two buffers and a communicator.
struct Rank {
  int rank = 0, size = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  char *out = nullptr, *in = nullptr;

  void SetUp(const ncclUniqueId& id, bool blocking) {
    EXPECT_EQ(cudaSetDevice(rank), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&out), kBytes * size), cudaSuccess);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&in), kBytes * size), cudaSuccess);
    EXPECT_EQ(cudaMemset(out, 1 + rank, kBytes * size), cudaSuccess);
    EXPECT_EQ(cudaMemset(in, 0, kBytes * size), cudaSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    const ncclResult_t result = ncclCommInitRankConfig(&comm, size, id, rank, &config);
    EXPECT_EQ(result, blocking ? ncclSuccess : ncclInProgress) << ncclGetLastError(comm);
    EXPECT_EQ(Settle(), ncclSuccess);
  }
  ncclResult_t Settle() {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
      EXPECT_EQ(ncclCommGetAsyncError(comm, &state), ncclSuccess);
      std::this_thread::yield();
    }
    return state;
  }
  ncclResult_t AwaitError() {
    ncclResult_t state = ncclSuccess;
    while (state == ncclSuccess) {
      EXPECT_EQ(ncclCommGetAsyncError(comm, &state), ncclSuccess);
      EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady) << "hangs until it is aborted";
    }
    return state;
  }
  ncclResult_t Swap(int peer, size_t out_bytes = kBytes, size_t in_bytes = kBytes) {
    EXPECT_EQ(ncclGroupStart(), ncclSuccess);
    EXPECT_EQ(ncclSend(out, out_bytes, ncclUint8, peer, comm, stream), ncclSuccess) << ncclGetLastError(comm);
    EXPECT_EQ(ncclRecv(in, in_bytes, ncclUint8, peer, comm, stream), ncclSuccess) << ncclGetLastError(comm);
    return ncclGroupEnd();
  }
  // What has come, after all that the stream does.
  std::string Received() {
    std::string host(kBytes, 0);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(host.data(), in, kBytes, cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }
};

class FakeNccl : public testing::Test {
 protected:
  FakeNccl() {
    Reset();
    SetDevices(kDevicesMax);
  }
  ~FakeNccl() override { Reset(); }

  static void OnEach(int size, bool blocking, const std::function<void(Rank& rank)>& body,
                     const NcclFaults& faults_of_one = {}) {
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    std::vector<std::thread> threads;
    for (int i = 0; i < size; ++i) {
      threads.emplace_back([&, i] {
        if (i == 1) SetNcclFaults(faults_of_one);
        Rank rank = {.rank = i, .size = size};
        rank.SetUp(id, blocking);
        body(rank);
        if (rank.comm != nullptr) {
          EXPECT_EQ(ncclCommAbort(rank.comm), ncclSuccess);
        }
        cudaStreamDestroy(rank.stream);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

TEST_F(FakeNccl, SendsAndReceives) {
  for (const bool blocking : {true, false}) {
    OnEach(2, blocking, [&](Rank& rank) {
      EXPECT_EQ(rank.Swap(1 - rank.rank), blocking ? ncclSuccess : ncclInProgress);
      EXPECT_EQ(rank.Settle(), ncclSuccess);
      EXPECT_EQ(rank.Received(), std::string(kBytes, static_cast<char>(2 - rank.rank)));
      if (blocking) {
        EXPECT_EQ(ncclCommFinalize(rank.comm), ncclSuccess);
        EXPECT_EQ(ncclCommDestroy(rank.comm), ncclSuccess);
        rank.comm = nullptr;
      }
    });
  }
}

TEST_F(FakeNccl, ANonBlockingGroupIsOnItsStreamOnlyOnceItIsSettled) {
  OnEach(2, false, [](Rank& rank) {
    EXPECT_EQ(rank.Swap(1 - rank.rank), ncclInProgress);
    EXPECT_EQ(cudaStreamQuery(rank.stream), cudaSuccess) << "nothing is on it yet";
    EXPECT_EQ(ncclSend(rank.out, 1, ncclUint8, 1 - rank.rank, rank.comm, rank.stream), ncclInvalidArgument)
        << "not ready";
    EXPECT_EQ(rank.Settle(), ncclSuccess);
    EXPECT_EQ(cudaStreamSynchronize(rank.stream), cudaSuccess);
  });
}

// A send ends when it is received: two that wait for each other wait forever, as large ones do.
void SendFirst() {
  SetDevices(2);
  SetWatchdog(std::chrono::milliseconds(300));
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  const auto run = [&](int i) {
    Rank rank = {.rank = i, .size = 2};
    rank.SetUp(id, true);
    ncclSend(rank.out, kBytes, ncclUint8, 1 - i, rank.comm, rank.stream);
    ncclRecv(rank.in, kBytes, ncclUint8, 1 - i, rank.comm, rank.stream);
    cudaStreamSynchronize(rank.stream);
  };
  std::thread other([&] { run(1); });
  run(0);
  other.join();
}

TEST_F(FakeNccl, FindsUngroupedSendsThatWaitForEachOther) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(SendFirst(), "a group of NCCL of rank 0, 1 sends and 0 receives: to 1");
}

TEST_F(FakeNccl, FindsSizesAndTypesThatDisagree) {
  std::atomic<bool> seen = false;  // rank 0 stays until then: one that is gone is another error
  OnEach(2, true, [&seen](Rank& rank) {
    EXPECT_EQ(rank.Swap(1 - rank.rank, rank.rank == 0 ? kBytes - 1 : kBytes), ncclSuccess);
    while (rank.rank == 0) {
      if (seen) return;
      cudaStreamQuery(rank.stream);
    }
    EXPECT_EQ(rank.AwaitError(), ncclInvalidUsage);
    seen = true;
    EXPECT_EQ(std::string(ncclGetLastError(rank.comm)),
              "rank 1 expected 64 bytes of kind 1 from rank 0, got 63 of kind 1");
  });
}

TEST_F(FakeNccl, WhatAnAbortLeavesBehindIsHalfABuffer) {
  OnEach(2, true, [](Rank& rank) {
    if (rank.rank == 1) return;  // never sends
    EXPECT_EQ(rank.Swap(1), ncclSuccess);
    EXPECT_EQ(cudaStreamQuery(rank.stream), cudaErrorNotReady);
    EXPECT_EQ(ncclCommAbort(rank.comm), ncclSuccess);
    rank.comm = nullptr;
    const std::string left = rank.Received();
    EXPECT_NE(left.substr(0, kBytes / 2), std::string(kBytes / 2, 0));
    EXPECT_EQ(left.substr(kBytes / 2), std::string(kBytes / 2, 0));
  });
}

TEST_F(FakeNccl, ADeadPeerIsAnErrorWhileTheStreamHangs) {
  OnEach(3, true,
         [](Rank& rank) {
           EXPECT_EQ(rank.Swap(rank.rank == 0 ? 1 : 0), ncclSuccess);
           if (rank.rank == 2) return;
           EXPECT_EQ(rank.AwaitError(), rank.rank == 0 ? ncclRemoteError : ncclSystemError);
         },
         {.dies_at_group = 0});
}

TEST_F(FakeNccl, CanLoseHalfAMessageSilently) {
  OnEach(2, true,
         [](Rank& rank) {
           EXPECT_EQ(rank.Swap(1 - rank.rank), ncclSuccess);
           const std::string received = rank.Received();
           EXPECT_EQ(received.substr(kBytes / 2), std::string(kBytes / 2, rank.rank == 1 ? 0 : 2));
         },
         {.halves_at_group = 0});
}

TEST_F(FakeNccl, RefusesWhatIsNotMemoryOfTheDevice) {
  OnEach(2, true, [](Rank& rank) {
    char host[kBytes] = {};
    const int peer = 1 - rank.rank;
    EXPECT_EQ(ncclSend(host, kBytes, ncclUint8, peer, rank.comm, rank.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclRecv(rank.in, kBytes * 2 + 1, ncclUint8, peer, rank.comm, rank.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclSend(rank.out, kBytes, ncclUint8, 2, rank.comm, rank.stream), ncclInvalidArgument) << "no such rank";
  });
}

TEST_F(FakeNccl, AnAbortWaitsForGraphs) {
  OnEach(2, true, [](Rank& rank) {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(rank.stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(rank.Swap(1 - rank.rank), ncclSuccess);
    EXPECT_EQ(cudaStreamEndCapture(rank.stream, &graph), cudaSuccess);
    std::atomic<bool> destroyed = false;
    std::thread aborts([&] {
      EXPECT_EQ(ncclCommAbort(rank.comm), ncclSuccess);
      EXPECT_TRUE(destroyed);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    destroyed = true;
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    aborts.join();
    rank.comm = nullptr;
  });
}

}  // namespace
}  // namespace fake
