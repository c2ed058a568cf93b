#include "expert_worker/expert_parallel.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "absl/synchronization/barrier.h"
#include "expert_worker/exchange/in_process.h"
#include "expert_worker/exchange/ucx.h"
#include "expert_worker/tiny_model.h"

namespace braid {
namespace {

constexpr int kLayer = 1;
constexpr int kStepTokens = 64;

// One rank's rows of one layer, with room for the result.
struct Rows {
  Rows(const ModelConfig& config, int T, uint32_t seed) : x(T * config.model_dim), y(T * config.model_dim, -1.0f) {
    std::mt19937 rng(seed);
    const int K = config.experts_per_token;
    for (float& value : x) value = static_cast<float>(rng() % 2001) / 1000 - 1;
    for (int t = 0; t < T; ++t) {
      std::vector<int32_t> all(config.experts);
      for (int e = 0; e < config.experts; ++e) all[e] = e;
      for (int k = 0; k < K; ++k) {
        std::swap(all[k], all[k + rng() % (all.size() - k)]);
        experts.push_back(all[k]);
        weights.push_back(static_cast<float>(rng() % 1000) / 1000);
      }
    }
    batch = {.layer = kLayer,
             .T = T,
             .D = config.model_dim,
             .K = K,
             .x = x.data(),
             .experts = experts.data(),
             .weights = weights.data(),
             .y = y.data()};
  }
  std::vector<float> x, weights, y;
  std::vector<int32_t> experts;
  RoutedBatch batch;
};

std::vector<float> Expected(const TinyWorkerModel& model, int T, uint32_t seed) {
  ThreadPool pool(1);
  GatedExpertFfn ffn(&model.config(), &model.tensors(), &pool);
  LocalExperts local(model.config().experts, &ffn, &pool);
  Rows rows(model.config(), T, seed);
  EXPECT_TRUE(local.Run(rows.batch).ok());
  return rows.y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Every expert on one rank alone, in every layer.
std::vector<ExpertRanks> AllAt(const ModelConfig& config, uint32_t rank, int size) {
  v1::LayerPlacement layer;
  for (int expert = 0; expert < config.experts; ++expert) {
    layer.add_replicas(1);
    layer.add_ranks(rank);
  }
  return std::vector<ExpertRanks>(config.moe_layer_count(), *ExpertRanks::Parse(layer, config.experts, size));
}

// Each layer another one, experts with any number of replicas.
std::vector<ExpertRanks> RandomPlacement(const ModelConfig& config, int size, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<ExpertRanks> layers;
  for (int i = 0; i < config.moe_layer_count(); ++i) {
    v1::LayerPlacement layer;
    for (int expert = 0; expert < config.experts; ++expert) {
      const uint32_t certain = rng() % size;
      const uint32_t odds = 1 + rng() % 4;
      uint32_t replicas = 0;
      for (uint32_t rank = 0; rank < static_cast<uint32_t>(size); ++rank) {
        if (rank != certain && rng() % odds != 0) continue;
        layer.add_ranks(rank);
        ++replicas;
      }
      layer.add_replicas(replicas);
    }
    layers.push_back(*ExpertRanks::Parse(layer, config.experts, size));
  }
  return layers;
}

using MakeFactory = std::function<std::unique_ptr<HostExchangeFactory>()>;

// Runs `body` on each of `size` ranks, connected.
void OnEachRank(const MakeFactory& make, int size, size_t message_bytes_max,
                const std::function<void(int rank, HostExchange* exchange)>& body) {
  std::vector<std::string> addresses(size);
  std::vector<std::thread> threads;
  absl::Barrier* const prepared = new absl::Barrier(size);
  absl::Barrier* const finished = new absl::Barrier(size);
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      auto factory = make();
      auto exchange =
          factory->PrepareHost({.epoch = 3, .rank = rank, .size = size, .message_bytes_max = message_bytes_max});
      if (exchange.ok()) addresses[rank] = (*exchange)->address();
      if (prepared->Block()) delete prepared;
      EXPECT_TRUE(exchange.ok()) << exchange.status();
      EXPECT_EQ((*exchange)->Connect(addresses), absl::OkStatus());
      body(rank, exchange->get());
      if (finished->Block()) delete finished;
    });
  }
  for (auto& thread : threads) thread.join();
}

class ExpertParallelTest : public testing::TestWithParam<std::pair<const char*, MakeFactory>> {
 protected:
  const TinyWorkerModel model_;
  const size_t message_bytes_max_ =
      MoeMessageBytesMax(kStepTokens, model_.config().experts_per_token, model_.config().model_dim);
};

TEST_P(ExpertParallelTest, GivesTheBitsOfLocalExpertsOnAnyNumberOfRanks) {
  for (int size = 1; size <= 4; ++size) {
    OnEachRank(GetParam().second, size, message_bytes_max_, [&](int rank, HostExchange* exchange) {
      ThreadPool pool(1 + rank % 2);
      GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
      // Every rank has another number of rows, some none at all.
      for (int step = 1; step <= 24; ++step) {
        ExpertParallel experts(&model_.config(), &ffn, &pool, size == 1 ? nullptr : exchange,
                               {.rank = rank,
                                .size = size,
                                .step_tokens_max = kStepTokens,
                                .placement = RandomPlacement(model_.config(), size, step)});
        experts.BeginStep(step, 0);
        const int T = (step * 7 + rank * 13) % (kStepTokens + 1) * (step % 4 != rank % 4);
        Rows rows(model_.config(), T, 100 * step + rank);
        ASSERT_EQ(experts.Run(rows.batch), absl::OkStatus());
        ASSERT_TRUE(SameBits(rows.y, Expected(model_, T, 100 * step + rank))) << "rank " << rank << " of " << size;
      }
    });
  }
}

TEST_P(ExpertParallelTest, CountsTheRowsOfEveryRank) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, HostExchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    ExpertParallel experts(
        &model_.config(), &ffn, &pool, exchange,
        {.rank = rank, .size = 2, .step_tokens_max = kStepTokens, .placement = AllAt(model_.config(), 0, 2)});
    experts.BeginStep(1, 0);
    Rows rows(model_.config(), 10, rank);
    ASSERT_EQ(experts.Run(rows.batch), absl::OkStatus());
    const std::vector<uint64_t> counts = experts.TakeExpertRows();
    const size_t E = model_.config().experts, layer = kLayer - model_.config().dense_layers;
    ASSERT_EQ(counts.size(), E * model_.config().moe_layer_count());
    uint64_t total = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      total += counts[i];
      EXPECT_TRUE(i / E == layer || counts[i] == 0);
    }
    EXPECT_EQ(total, rank == 0 ? 60u : 0u);
    for (uint64_t count : experts.TakeExpertRows()) EXPECT_EQ(count, 0u);
  });
}

TEST_P(ExpertParallelTest, AsksItselfFirstAndOtherReplicasInTurn) {
  v1::LayerPlacement layer;
  for (int expert = 0; expert < model_.config().experts; ++expert) {
    layer.add_replicas(2);
    layer.add_ranks(0);
    layer.add_ranks(1);
  }
  const std::vector<ExpertRanks> placement(model_.config().moe_layer_count(),
                                           *ExpertRanks::Parse(layer, model_.config().experts, 3));
  std::vector<uint64_t> totals(3);
  OnEachRank(GetParam().second, 3, message_bytes_max_, [&](int rank, HostExchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    ExpertParallel experts(&model_.config(), &ffn, &pool, exchange,
                           {.rank = rank, .size = 3, .step_tokens_max = kStepTokens, .placement = placement});
    experts.BeginStep(1, 0);
    Rows rows(model_.config(), rank == 0 ? 10 : rank == 1 ? 20 : 40, rank);
    ASSERT_EQ(experts.Run(rows.batch), absl::OkStatus());
    for (uint64_t count : experts.TakeExpertRows()) totals[rank] += count;
  });
  const uint64_t K = model_.config().experts_per_token;
  EXPECT_NEAR(totals[0], (10 + 20) * K, model_.config().experts);  // per expert the halves differ by one at most
  EXPECT_EQ(totals[0] + totals[1], 70 * K);
  EXPECT_EQ(totals[2], 0u);
}

TEST_P(ExpertParallelTest, ARankInAnotherStepIsFoundOut) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, HostExchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    ExpertParallel experts(
        &model_.config(), &ffn, &pool, exchange,
        {.rank = rank, .size = 2, .step_tokens_max = kStepTokens, .placement = AllAt(model_.config(), 1, 2)});
    experts.BeginStep(1 + rank, 0);
    Rows rows(model_.config(), 1, rank);
    EXPECT_EQ(experts.Run(rows.batch).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(experts.suspects(), std::vector<int>{1 - rank});
  });
}

TEST_P(ExpertParallelTest, APeerWithAnotherPlacementIsBlamed) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, HostExchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    // Each believes that the other has all experts.
    ExpertParallel experts(
        &model_.config(), &ffn, &pool, exchange,
        {.rank = rank, .size = 2, .step_tokens_max = kStepTokens, .placement = AllAt(model_.config(), 1 - rank, 2)});
    experts.BeginStep(1, 0);
    Rows rows(model_.config(), 4, rank);
    EXPECT_EQ(experts.Run(rows.batch).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(experts.suspects(), std::vector<int>{1 - rank});
  });
}

INSTANTIATE_TEST_SUITE_P(
    Transports, ExpertParallelTest,
    testing::Values(std::pair<const char*, MakeFactory>{"InProcess", [] { return MakeInProcessExchangeFactory(); }},
                    std::pair<const char*, MakeFactory>{"Ucx", [] { return *MakeUcxExchangeFactory({}); }}),
    [](const auto& info) { return info.param.first; });

TEST(Dispatch, RefusesMalformedMessages) {
  v1::LayerPlacement layer;
  for (const uint32_t rank : {0, 1}) {
    layer.add_replicas(1);
    layer.add_ranks(rank);
  }
  const ExpertRanks placed = *ExpertRanks::Parse(layer, 2, 2);
  const DispatchLimits limits = {
      .layer = 2, .D = 4, .rows_max = 3, .pairs_per_row_max = 2, .rank = 1, .placed = &placed};
  alignas(64) std::byte memory[1024];
  const auto parse = [&](int layer, int rows, int D, std::vector<Pair> pairs, ptrdiff_t extra_bytes = 0) {
    const DispatchLayout layout = LayOutDispatch(layer, rows, D, pairs, memory);
    return ParseDispatch({memory, layout.bytes + extra_bytes}, limits).ok();
  };
  EXPECT_TRUE(parse(2, 3, 4, {{0, 1}, {2, 1}}));
  EXPECT_TRUE(parse(2, 0, 4, {}));
  EXPECT_FALSE(parse(3, 1, 4, {{0, 1}})) << "another layer";
  EXPECT_FALSE(parse(2, 1, 8, {{0, 1}})) << "another width";
  EXPECT_FALSE(parse(2, 4, 4, {{0, 1}})) << "too many rows";
  EXPECT_FALSE(parse(2, 1, 4, {{0, 1}, {0, 1}, {0, 1}})) << "too many pairs";
  EXPECT_FALSE(parse(2, 1, 4, {{1, 1}})) << "a row that is not there";
  EXPECT_FALSE(parse(2, 1, 4, {{-1, 1}})) << "a negative row";
  EXPECT_FALSE(parse(2, 1, 4, {{0, 0}})) << "an expert of another rank";
  EXPECT_FALSE(parse(2, 1, 4, {{0, 2}})) << "an expert that does not exist";
  EXPECT_FALSE(parse(2, 1, 4, {{0, 1}}, -1)) << "cut short";
  EXPECT_FALSE(parse(2, 1, 4, {{0, 1}}, 1)) << "too long";
  EXPECT_FALSE(ParseDispatch({memory, 10}, limits).ok());
  const DispatchLayout combine = LayOutCombine(2, 3, 4, memory);
  EXPECT_TRUE(ParseCombine({memory, combine.bytes}, 2, 3, 4).ok());
  EXPECT_FALSE(ParseCombine({memory, combine.bytes}, 2, 2, 4).ok());
  EXPECT_FALSE(ParseDispatch({memory, combine.bytes}, limits).ok()) << "another phase";
}

}  // namespace
}  // namespace braid
