// Experts spread over devices that NCCL connects: its fake, between threads.

#include <gtest/gtest.h>

#include <barrier>

#include "expert_worker/cuda/test_experts.h"
#include "expert_worker/exchange/nccl.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/simt.h"

namespace braid::gpu {
namespace {

class ExpertParallelOverNccl : public testing::Test {
 protected:
  ExpertParallelOverNccl() {
    fake::Reset();
    fake::SetDevices(4);
  }
  ~ExpertParallelOverNccl() override { fake::Reset(); }

  // body(rank, exchange) on a thread for each rank, connected.
  static void OnEachConnected(int size, const std::function<void(int rank, DeviceExchange* exchange)>& body) {
    std::vector<std::string> addresses(size);
    std::barrier prepared(size), finished(size);
    OnEachRank(size, [&](int rank) {
      auto factory = MakeNcclExchangeFactory({.device = rank});
      EXPECT_TRUE(factory.ok()) << factory.status();
      auto exchange = (*factory)->PrepareDevice(
          {.epoch = 3,
           .rank = rank,
           .size = size,
           .message_bytes_max = ExpertParallel::MessageBytesMax(kConfig, Rank<__nv_bfloat16>::WithType(kSmall))});
      EXPECT_TRUE(exchange.ok()) << exchange.status();
      addresses[rank] = (*exchange)->address();
      prepared.arrive_and_wait();
      EXPECT_EQ((*exchange)->Connect(addresses), absl::OkStatus());
      body(rank, exchange->get());
      finished.arrive_and_wait();
    });
  }
};

TEST_F(ExpertParallelOverNccl, GivesTheBitsOfOneInSlotsExactlyAndFromAGraph) {
  for (const int size : simt::kManyThreads ? std::vector<int>{2, 3, 4} : std::vector<int>{2}) {
    const std::vector<int> rows_max = {4, 20, 7, 3, 24, 4};  // up to 8 in slots, up to 4 from the graph of the first
    std::vector<std::vector<Rows>> rows(size);
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < static_cast<int>(rows_max.size()); ++step) {
        const int T = RowsOf(rank, step, rows_max[step]);
        rows[rank].emplace_back(T, rows_max[step] <= 4 ? 4 : T, 100 * rank + step);
      }
    }
    const std::vector<std::vector<float>> expected = Alone<__nv_bfloat16>(rows);
    simt::SetSeed(size);
    OnEachConnected(size, [&](int at, DeviceExchange* exchange) {
      Rank<__nv_bfloat16> rank(exchange, at, RandomPlacement(size, size), size, kSmall);
      GraphExec graph;
      uint64_t graph_shape = 0;
      std::vector<float> sums;
      for (size_t step = 0; step < rows_max.size(); ++step) {
        rank.Set(rows[at][step]);
        rank.parallel->BeginStep(step + 1, rows_max[step]);
        if (step == 0) {
          graph = rank.Capture();
          graph_shape = rank.parallel->capture_shape();
        }
        if (rank.parallel->capturable() && rank.parallel->capture_shape() == graph_shape) {
          ASSERT_EQ(cudaGraphLaunch(graph.get(), rank.stream.get()), cudaSuccess);
        } else {
          ASSERT_EQ(rank.Enqueue(), absl::OkStatus());
        }
        ASSERT_EQ(rank.Wait(), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
      }
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
    });
  }
}

TEST_F(ExpertParallelOverNccl, FindsARankThatRunsAnotherStep) {
  OnEachConnected(2, [&](int at, DeviceExchange* exchange) {
    Rank<__nv_bfloat16> rank(exchange, at, RandomPlacement(2, 2), 2, kSmall);
    rank.Set(Rows(3, 4, at));
    const absl::Status status = rank.RunStep(1 + at, 4);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_EQ(rank.parallel->suspects(), std::vector<int>{1 - at});
  });
}

}  // namespace
}  // namespace braid::gpu
