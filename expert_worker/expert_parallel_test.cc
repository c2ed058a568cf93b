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

using MakeFactory = std::function<std::unique_ptr<ExchangeFactory>()>;

// Runs `body` on each of `size` ranks, connected.
void OnEachRank(const MakeFactory& make, int size, size_t message_bytes_max,
                const std::function<void(int rank, Exchange* exchange)>& body) {
  std::vector<std::string> addresses(size);
  std::vector<std::thread> threads;
  absl::Barrier* const prepared = new absl::Barrier(size);
  absl::Barrier* const finished = new absl::Barrier(size);
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      auto factory = make();
      auto exchange =
          factory->Prepare({.epoch = 3, .rank = rank, .size = size, .message_bytes_max = message_bytes_max});
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
    OnEachRank(GetParam().second, size, message_bytes_max_, [&](int rank, Exchange* exchange) {
      ThreadPool pool(1 + rank % 2);
      GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
      ExpertParallel::Options options = {.rank = rank, .step_tokens_max = kStepTokens, .rank_of_expert = {}};
      for (int e = 0; e < model_.config().experts; ++e) options.rank_of_expert.push_back((e * 5 + 2) % size);
      ExpertParallel experts(&model_.config(), &ffn, &pool, size == 1 ? nullptr : exchange, size, options);
      // Every rank has another number of rows, some none at all.
      for (int step = 1; step <= 12; ++step) {
        experts.BeginStep(step);
        const int T = (step * 7 + rank * 13) % (kStepTokens + 1) * (step % 4 != rank % 4);
        Rows rows(model_.config(), T, 100 * step + rank);
        ASSERT_EQ(experts.Run(rows.batch), absl::OkStatus());
        ASSERT_TRUE(SameBits(rows.y, Expected(model_, T, 100 * step + rank))) << "rank " << rank << " of " << size;
      }
    });
  }
}

TEST_P(ExpertParallelTest, CountsTheRowsOfEveryRank) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, Exchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    const std::vector<int32_t> all_on_0(model_.config().experts, 0);
    ExpertParallel experts(&model_.config(), &ffn, &pool, exchange, 2,
                           {.rank = rank, .step_tokens_max = kStepTokens, .rank_of_expert = all_on_0});
    experts.BeginStep(1);
    Rows rows(model_.config(), 10, rank);
    ASSERT_EQ(experts.Run(rows.batch), absl::OkStatus());
    uint64_t total = 0;
    for (uint64_t count : experts.TakeExpertRows()) total += count;
    EXPECT_EQ(total, rank == 0 ? 60u : 0u);
    for (uint64_t count : experts.TakeExpertRows()) EXPECT_EQ(count, 0u);
  });
}

TEST_P(ExpertParallelTest, ARankInAnotherStepIsFoundOut) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, Exchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    ExpertParallel experts(&model_.config(), &ffn, &pool, exchange, 2,
                           {.rank = rank,
                            .step_tokens_max = kStepTokens,
                            .rank_of_expert = std::vector<int32_t>(model_.config().experts, 1)});
    experts.BeginStep(1 + rank);
    Rows rows(model_.config(), 1, rank);
    EXPECT_EQ(experts.Run(rows.batch).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(experts.suspects(), std::vector<int>{1 - rank});
  });
}

TEST_P(ExpertParallelTest, APeerWithAnotherPlacementIsBlamed) {
  OnEachRank(GetParam().second, 2, message_bytes_max_, [&](int rank, Exchange* exchange) {
    ThreadPool pool(1);
    GatedExpertFfn ffn(&model_.config(), &model_.tensors(), &pool);
    // Each believes that the other has all experts.
    ExpertParallel experts(&model_.config(), &ffn, &pool, exchange, 2,
                           {.rank = rank,
                            .step_tokens_max = kStepTokens,
                            .rank_of_expert = std::vector<int32_t>(model_.config().experts, 1 - rank)});
    experts.BeginStep(1);
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
  const std::vector<int32_t> rank_of_expert = {0, 1};
  const DispatchLimits limits = {
      .layer = 2, .D = 4, .rows_max = 3, .pairs_per_row_max = 2, .rank = 1, .rank_of_expert = rank_of_expert};
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
