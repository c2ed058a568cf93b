#include "cli/bench_engine/engine_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/bench_engine/points.h"
#include "cli/bench_engine/worker_engine.h"
#include "model/model_file.h"

namespace braid {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kPrompt = BenchPoint::Kind::kPrompt;
constexpr auto kDecode = BenchPoint::Kind::kDecode;

ModelConfig WithContext(int tokens) {
  ModelConfig config;
  config.context_tokens_max = tokens;
  return config;
}

TEST(BenchPlan, CrossesEveryBatchWithEveryContext) {
  EngineBenchOptions options;
  options.prompts = {512}, options.batches = {1, 8}, options.contexts = {0, 100};
  EXPECT_THAT(PlanPoints(options, WithContext(4096), 1000).points,
              ElementsAre(BenchPoint{kPrompt, 1, 512}, BenchPoint{kDecode, 1, 0}, BenchPoint{kDecode, 8, 0},
                          BenchPoint{kDecode, 1, 100}, BenchPoint{kDecode, 8, 100}));
}

TEST(BenchPlan, TakesZeroForNone) {
  EngineBenchOptions options;
  options.prompts = {0}, options.batches = {0};
  const BenchPlan plan = PlanPoints(options, WithContext(4096), 1000);
  EXPECT_TRUE(plan.points.empty());
  EXPECT_TRUE(plan.left_out.empty());
}

TEST(BenchPlan, SaysWhatDoesNotFit) {
  EngineBenchOptions options;
  options.prompts = {4097}, options.batches = {1, 8}, options.contexts = {1024}, options.steps = 16;
  options.kv_bytes_max = 33 * 1000;  // 1,040 positions in blocks of 32
  const BenchPlan plan = PlanPoints(options, WithContext(4096), 1000);
  EXPECT_THAT(plan.points, ElementsAre(BenchPoint{kDecode, 1, 1024}));
  EXPECT_THAT(plan.left_out, ElementsAre("prompt of 4097: the model's context ends at 4096",
                                         HasSubstr("decode, 8 sequences at 1024: its keys and values would take")));
}

TEST(BenchPoint, RoundsEachSequenceUpToBlocks) {
  EXPECT_EQ((BenchPoint{kPrompt, 1, 65}.KvBlocks(16)), 3);
  EXPECT_EQ((BenchPoint{kDecode, 4, 0}.KvBlocks(1)), 4);
  EXPECT_EQ((BenchPoint{kDecode, 4, 30}.KvBlocks(3)), 8);
}

TEST(Median, IsTheMiddleOrBetweenTheTwo) {
  EXPECT_EQ(Median({}), 0);
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
}

TEST(PointResult, ComparesEachSampleWithItsOwnLimit) {
  PointResult result;
  result.samples = {{50, 100, {}}, {10, 20, {}}, {90, 100, {}}};
  EXPECT_EQ(result.TokensPerSecond(), 50);
  EXPECT_EQ(result.LimitTokensPerSecond(), 100);
  EXPECT_EQ(result.LimitShare(), 0.5);
}

// On the CPU, which any machine has; a GPU's is measured through the same.
TEST(WorkerEngine, RunsAllThatIsMeasured) {
  const auto model = ModelFile::Open("model/demo");
  ASSERT_TRUE(model.ok()) << model.status();
  EngineBenchOptions options;
  options.steps = 2, options.repeat = 1, options.chunk = 16;
  const std::vector<BenchPoint> points = {{kPrompt, 1, 40}, {kDecode, 3, 64}};
  const StateSizes sizes = SizesFor(options, points);
  EXPECT_EQ(sizes.blocks, 3 * 3);
  EXPECT_EQ(sizes.sequences, 3);
  WorkerOptions worker;
  worker.threads = 1, worker.exchange = "inprocess", worker.step_tokens_max = 16;
  const auto engine = MakeWorkerEngine(model->get(), worker, sizes, {1e9, 1e9});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto results =
      RunEngineBench((*model)->config(), (*model)->tensors(), options, points, engine->get(), [](const BenchPoint&) {});
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->points.size(), 2u);
  for (const PointResult& result : results->points) {
    EXPECT_GT(result.TokensPerSecond(), 0);
    EXPECT_GT(result.LimitTokensPerSecond(), 0);
    const double experts = static_cast<double>(result.steps) * results->moe_layers * (*model)->config().experts;
    EXPECT_THAT(result.experts_touched, testing::AllOf(testing::Gt(0), testing::Le(experts)));
  }
}

}  // namespace
}  // namespace braid
