// Experts spread over devices that NCCL connects: its fake, between threads.

#include <gtest/gtest.h>

#include <barrier>

#include "expert_worker/cuda/test_experts.h"
#include "expert_worker/exchange/nccl.h"
#include "model/cuda/engine_fixture.h"
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
  static void OnEachConnected(int size, const std::function<void(int rank, DeviceExchange* exchange)>& body,
                              const ModelConfig& config = kConfig) {
    std::vector<std::string> addresses(size);
    std::barrier prepared(size), finished(size);
    OnEachRank(size, [&](int rank) {
      auto factory = MakeNcclExchangeFactory({.device = rank});
      EXPECT_TRUE(factory.ok()) << factory.status();
      auto exchange = (*factory)->PrepareDevice(
          {.epoch = 3,
           .rank = rank,
           .size = size,
           .message_bytes_max = ExpertParallel::MessageBytesMax(config, Rank<__nv_bfloat16>::WithType(kSmall))});
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
          ASSERT_EQ(rank.Launch(graph), absl::OkStatus());
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

// The whole model, in steps in halves where some rank has so many rows, if that is not 0.
class EnginesOverNccl : public ExpertParallelOverNccl, public testing::WithParamInterface<int> {
 protected:
  // body(rank, engine, experts) on a thread for each rank; each has some of the experts.
  void OnEachEngine(int size, const std::function<void(int, DeviceEngine&, ExpertParallel&)>& body) {
    const ModelConfig& config = model_.config;
    ExpertParallel::Options parallel_options = Rank<__nv_bfloat16>::WithType(kSmall);
    parallel_options.overlap_rows = GetParam();
    const std::vector<ExpertRanks> placement = RandomPlacement(size, 5, config);
    OnEachConnected(
        size,
        [&](int at, DeviceExchange* exchange) {
          DeviceEngineOptions options = SmallOptions(DType::kBF16);
          options.expert_rows_max = ExpertParallel::ExpertRowsMax(config, parallel_options, size);
          options.exchange_bytes =
              ExpertParallel::ScratchBytes(config, parallel_options, options.step_tokens_max, size);
          auto engine = *DeviceEngine::Create(*OpenDevice(at), &config, &model_.tensors, options);
          ASSERT_EQ(engine->Load(NeverStop), absl::OkStatus());
          std::vector<bool> here;
          for (const ExpertRanks& layer : placement)
            for (int e = 0; e < config.experts; ++e) here.push_back(layer.IsAt(e, at));
          const auto ffn = engine->MakeExpertFfn(*engine->LoadExperts(here, NeverStop));
          auto experts = ExpertParallel::Make(
              &config, ffn.get(), exchange,
              {.rank = at, .size = size, .step_tokens_max = options.step_tokens_max, .placement = placement},
              parallel_options, {engine->exchange_memory(), options.exchange_bytes});
          ASSERT_TRUE(experts.ok()) << experts.status();
          body(at, *engine, **experts);
        },
        config);
  }
  std::vector<float> Alone(std::span<const TokenId> tokens) {
    if (!alone_) alone_ = std::make_unique<DeviceFixture>(&model_.config, &model_.tensors, SmallOptions(DType::kBF16));
    return alone_->Logits(tokens, 100);
  }

  const TinyModel model_{DType::kBF16};
  std::unique_ptr<DeviceFixture> alone_;
};
INSTANTIATE_TEST_SUITE_P(InHalvesFromRows, EnginesOverNccl,
                         testing::ValuesIn(simt::kManyThreads ? std::vector<int>{0, 1, 4} : std::vector<int>{1}));

// One sequence on each.
TEST_P(EnginesOverNccl, GiveTheBitsOfOne) {
  const int size = simt::kManyThreads ? 3 : 2;
  // Steps by their rows on each rank: prefill exactly and in passes, decode in slots and from graphs.
  const std::vector<std::vector<int>> steps = {{20, 11, 0}, {1, 1, 9}, {1, 1, 1}, {1, 1, 1}, {1, 0, 1},
                                               {1, 1, 1},   {5, 1, 1}, {0, 1, 1}, {1, 1, 1}, {13, 4, 1}};
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> expected;
  for (int rank = 0; rank < size; ++rank) {
    int count = 0;
    for (const std::vector<int>& rows : steps) count += rows[rank];
    tokens.push_back(model_.Tokens(count, 1 + rank));
    expected.push_back(Alone(tokens.back()));
  }
  OnEachEngine(size, [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
    SequenceCache cache{.blocks = {3, 1}, .conv_slot = 2};
    std::vector<float> all;
    int position = 0;
    for (size_t step = 0; step < steps.size(); ++step) {
      const int rows = steps[step][at];
      experts.BeginStep(step + 1, *std::max_element(steps[step].begin(), steps[step].end()));
      const Chunk chunk{&cache, position, std::span(tokens[at]).subspan(position, rows), Chunk::Logits::kAll};
      std::vector<float> logits;
      ASSERT_EQ(engine.Run({&chunk, rows > 0 ? 1u : 0u}, experts.runner(), &logits), absl::OkStatus());
      all.insert(all.end(), logits.begin(), logits.end());
      position += rows;
    }
    EXPECT_GT(engine.graphs(), 0);
    EXPECT_TRUE(SameBits(all, expected[at])) << at;
  });
}

// Many on each: halves begin in the middle of a prompt, and are padded.
TEST_P(EnginesOverNccl, GiveTheBitsOfOneForManySequences) {
  constexpr int kSteps = 4;
  const std::vector<int> counts = {5, 2};  // of sequences
  const auto prompt = [](int s) { return 1 + s; };
  std::vector<std::vector<std::vector<TokenId>>> tokens(counts.size());
  std::vector<std::vector<std::vector<float>>> expected(counts.size());
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    for (int s = 0; s < counts[rank]; ++s) {
      tokens[rank].push_back(model_.Tokens(prompt(s) + kSteps, static_cast<uint32_t>(10 * rank) + s));
      expected[rank].push_back(Alone(tokens[rank].back()));
    }
  }
  const int V = model_.config.vocab_size;
  OnEachEngine(static_cast<int>(counts.size()), [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
    const int count = counts[at];
    std::vector<SequenceCache> caches;
    for (int s = 0; s < count; ++s) caches.push_back({.blocks = {10 - s}, .conv_slot = s});
    for (int step = 0; step <= kSteps; ++step) {
      std::vector<Chunk> chunks;
      std::vector<float> want;
      for (int s = 0; s < count; ++s) {
        const int from = step == 0 ? 0 : prompt(s) + step - 1, to = prompt(s) + step;
        chunks.push_back({&caches[s], from, std::span(tokens[at][s]).subspan(from, to - from)});
        want.insert(want.end(), expected[at][s].begin() + (to - 1) * V, expected[at][s].begin() + to * V);
      }
      const int rows_max = step == 0 ? 15 : counts[0];  // of the first rank: 1 + 2 + 3 + 4 + 5
      experts.BeginStep(step + 1, rows_max);
      std::vector<float> logits;
      ASSERT_EQ(engine.Run(chunks, experts.runner(), &logits), absl::OkStatus());
      EXPECT_TRUE(SameBits(logits, want)) << step << " of " << at;
    }
    EXPECT_GT(engine.graphs(), 0);
  });
}

}  // namespace
}  // namespace braid::gpu
