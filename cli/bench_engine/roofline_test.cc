#include "cli/bench_engine/roofline.h"

#include <gtest/gtest.h>

namespace braid {
namespace {

// The shape of LFM2.5-8B-A1B in Q4_0, norms and router left out.
class Roofline : public testing::Test {
 protected:
  Roofline() {
    config_.architecture = "lfm2moe";
    config_.model_dim = 2048, config_.vocab_size = 128000;
    config_.heads = 32, config_.kv_heads = 8, config_.head_dim = 64;
    config_.dense_ffn_dim = 7168, config_.dense_layers = 2;
    config_.experts = 32, config_.experts_per_token = 4, config_.expert_ffn_dim = 1792;
    tensors_.embedding = tensors_.head = Q4(128000, 2048);
    for (int i = 0; i < 24; ++i) AddLayer(i == 2 || i == 6 || i == 10 || i == 14 || i == 18 || i == 21);
  }

  // A view whose data nobody reads.
  static TensorView Q4(int64_t rows, int64_t columns) {
    static const std::byte unread{};
    TensorView view;
    view.dtype = DType::kQ4_0, view.rows = rows, view.columns = columns, view.data = &unread;
    return view;
  }
  static FfnTensors Ffn(int64_t dim) { return {Q4(dim, 2048), Q4(dim, 2048), Q4(2048, dim)}; }

  void AddLayer(bool attention) {
    LayerTensors layer;
    if (attention) {
      layer.q = layer.attn_out = Q4(2048, 2048);
      layer.k = layer.v = Q4(512, 2048);
    } else {
      layer.conv_in = Q4(3 * 2048, 2048);
      layer.conv_out = Q4(2048, 2048);
    }
    if (config_.layer_count() < config_.dense_layers) {
      layer.dense = Ffn(7168);
    } else {
      layer.experts.assign(32, Ffn(1792));
    }
    tensors_.layers.push_back(layer);
    config_.layers.push_back(attention ? ModelConfig::LayerKind::kAttention : ModelConfig::LayerKind::kConv);
  }

  WorkCost Cost(const StepShape& shape) { return Total(CostOfStep(config_, tensors_, kKvBytesPerToken, shape)); }
  WorkCost DecodeCost(int sequences, int context, double experts_per_layer) {
    StepShape shape;
    for (int i = 0; i < sequences; ++i) shape.AddChunk(context, 1);
    shape.logit_rows = sequences;
    shape.experts_touched = 22 * experts_per_layer;
    return Cost(shape);
  }

  static constexpr uint64_t kKvBytesPerToken = 12288;  // 6 layers, keys and values of 512, two bytes each
  const MachineLimits machine_{57e9, 1.82e12};
  ModelConfig config_;
  ModelTensors tensors_;
};

TEST_F(Roofline, OneSequenceReadsTheActiveWeights) {
  const WorkCost cost = DecodeCost(1, 0, 4);
  EXPECT_NEAR(cost.bytes, 1.685e9 * 4.5 / 8, 2e6);
  EXPECT_NEAR(cost.int8_ops, 3.37e9, 0.01e9);
  EXPECT_NEAR(1 / cost.Seconds(machine_), 60, 0.5);
}

TEST_F(Roofline, AContextIsReadOnceAndVisitedByEachHead) {
  const WorkCost none = DecodeCost(1, 0, 4), some = DecodeCost(1, 8000, 4);
  EXPECT_EQ(some.bytes - none.bytes, 8000.0 * kKvBytesPerToken);
  EXPECT_EQ(some.attention_ops - none.attention_ops, 8000.0 * 49152);
  EXPECT_EQ(some.int8_ops, none.int8_ops);
}

TEST_F(Roofline, ABatchReadsEachTouchedExpertOnce) {
  const WorkCost eight = DecodeCost(8, 0, 21), sixty_four = DecodeCost(64, 0, 32);
  EXPECT_NEAR(eight.bytes, (716.6e6 + 242.2e6 * 21) * 4.5 / 8, 3e6);
  EXPECT_NEAR(8 / eight.Seconds(machine_), 140, 2);
  EXPECT_GT(sixty_four.ComputeSeconds(machine_), sixty_four.ReadSeconds(machine_));
  EXPECT_NEAR(64 / sixty_four.Seconds(machine_), 540, 4);
}

TEST_F(Roofline, APromptNeedsTheHeadOnceAndAttentionHalfOfASquare) {
  StepShape shape;
  shape.AddChunk(0, 8192);
  shape.logit_rows = 1;
  shape.experts_touched = 22 * 32;
  EXPECT_NEAR(8192 / Cost(shape).Seconds(machine_), 561, 2);
}

TEST_F(Roofline, ChunksOfAPromptVisitWhatTheWholePromptDoes) {
  StepShape whole, chunks;
  whole.AddChunk(0, 100);
  for (int at = 0; at < 100; at += 25) chunks.AddChunk(at, 25);
  EXPECT_EQ(chunks.context_visited, whole.context_visited);
  EXPECT_EQ(whole.context_visited, 100 * 101 / 2);
  EXPECT_EQ(whole.context_read, 100);
  EXPECT_EQ(chunks.context_read, 25 + 50 + 75 + 100);
}

TEST_F(Roofline, APanelWeighsWhatItsTypeDoes) {
  const WorkCost rows = DecodeCost(1, 0, 4);
  tensors_.head.layout = Layout::kPanels;
  EXPECT_EQ(DecodeCost(1, 0, 4).bytes, rows.bytes);
}

TEST_F(Roofline, OpsAddUpToTheStep) {
  StepShape shape;
  shape.AddChunk(16, 4);
  shape.experts_touched = 22 * 13;
  const StepCost cost = CostOfStep(config_, tensors_, kKvBytesPerToken, shape);
  EXPECT_EQ(cost[static_cast<size_t>(StepOp::kNorm)].bytes, 0);
  EXPECT_EQ(cost[static_cast<size_t>(StepOp::kHead)].bytes, 0) << "nobody wants logits";
  EXPECT_EQ(cost[static_cast<size_t>(StepOp::kExperts)].bytes, 22.0 * 13 * 3 * 1792 * 2048 * 4.5 / 8);
  EXPECT_EQ(cost[static_cast<size_t>(StepOp::kFfn)].int8_ops, 2.0 * 4 * 2 * 3 * 7168 * 2048);
  const auto experts = static_cast<size_t>(StepOp::kExperts);
  EXPECT_EQ(CostOfStep(config_, tensors_, kKvBytesPerToken, shape, Fp8::kWeights)[experts].bytes, cost[experts].bytes)
      << "what is quantised stays as it is";
}

TEST_F(Roofline, HalvesBytesByFp8AndTimeByRowsInFp8) {
  tensors_.layers[0].conv_in.dtype = DType::kBF16;
  StepShape shape;
  shape.AddChunk(0, 4);
  const auto cost = [&](Fp8 fp8) {
    return CostOfStep(config_, tensors_, kKvBytesPerToken, shape, fp8)[static_cast<size_t>(StepOp::kConvIn)];
  };
  const double weights = 3.0 * 2048 * 2048;
  EXPECT_EQ(cost(Fp8::kNone).bytes - cost(Fp8::kWeights).bytes, weights * (1 - 2.0 / 128));
  EXPECT_EQ(cost(Fp8::kRowsToo).bytes, cost(Fp8::kWeights).bytes);
  EXPECT_EQ(cost(Fp8::kWeights).int8_ops, cost(Fp8::kNone).int8_ops);
  EXPECT_EQ(cost(Fp8::kWeights).int8_ops - cost(Fp8::kRowsToo).int8_ops, 4 * weights);
}

}  // namespace
}  // namespace braid
