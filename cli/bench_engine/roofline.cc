#include "cli/bench_engine/roofline.h"

#include <initializer_list>

#include "base/check.h"

namespace braid {
namespace {

double Values(const TensorView& tensor) {
  return static_cast<double>(tensor.rows) * static_cast<double>(tensor.columns);
}

// As its type has it, however it is laid out; with `fp8`, those in floats as FP8, a scale to 128 columns.
double Bytes(const TensorView& tensor, bool fp8 = false) {
  if (tensor.empty()) return 0;
  if (fp8 && Info(tensor.dtype).elements == 1) return Values(tensor) * (1 + 2.0 / 128);
  return static_cast<double>(tensor.rows) *
         static_cast<double>(RowBytes(tensor.dtype, static_cast<uint64_t>(tensor.columns)));
}

// Matrices that `rows` rows are multiplied with.
WorkCost CostOfMatrices(std::initializer_list<const TensorView*> matrices, double rows, bool fp8) {
  WorkCost cost;
  if (rows == 0) return cost;
  for (const TensorView* matrix : matrices) cost += {Bytes(*matrix, fp8), 2 * rows * Values(*matrix), 0};
  return cost;
}

WorkCost CostOfFfn(const FfnTensors& ffn, double rows, bool fp8) {
  return CostOfMatrices({&ffn.gate, &ffn.up, &ffn.down}, rows, fp8);
}

}  // namespace

WorkCost& WorkCost::operator+=(const WorkCost& other) {
  bytes += other.bytes;
  int8_ops += other.int8_ops;
  attention_ops += other.attention_ops;
  return *this;
}

void StepShape::AddChunk(int position, int new_rows) {
  rows += new_rows;
  context_read += position + new_rows;
  // Row i of the chunk visits position + i + 1 of them.
  context_visited += static_cast<double>(new_rows) * position + 0.5 * new_rows * (new_rows + 1.0);
}

StepCost CostOfStep(const ModelConfig& config, const ModelTensors& tensors, uint64_t kv_bytes_per_token,
                    const StepShape& shape, bool fp8_weights) {
  CHECK_EQ(tensors.layers.size(), config.layers.size());
  StepCost cost;
  const auto add = [&cost](StepOp op, const WorkCost& more) { cost[static_cast<size_t>(op)] += more; };
  const double rows = shape.rows;
  for (int i = 0; i < config.layer_count(); ++i) {
    const LayerTensors& layer = tensors.layers[i];
    if (config.layers[i] == ModelConfig::LayerKind::kAttention) {
      add(StepOp::kQkv, CostOfMatrices({&layer.q, &layer.k, &layer.v}, rows, fp8_weights));
      add(StepOp::kAttnOut, CostOfMatrices({&layer.attn_out}, rows, fp8_weights));
      // A query times a key and a weight times a value: 4 operations per value of a head.
      add(StepOp::kAttention, {0, 0, 4.0 * config.heads * config.head_dim * shape.context_visited});
    } else {
      add(StepOp::kConvIn, CostOfMatrices({&layer.conv_in}, rows, fp8_weights));
      add(StepOp::kConvOut, CostOfMatrices({&layer.conv_out}, rows, fp8_weights));
    }
    if (!config.is_moe_layer(i)) {
      add(StepOp::kFfn, CostOfFfn(layer.dense, rows, fp8_weights));
      continue;
    }
    add(StepOp::kRouter, CostOfMatrices({&layer.router}, rows, /*fp8=*/false));
    WorkCost experts = CostOfFfn(layer.experts.at(0), rows * config.experts_per_token, fp8_weights);
    experts.bytes *= shape.experts_touched / config.moe_layer_count();
    add(StepOp::kExperts, experts);
  }
  add(StepOp::kEmbed, {rows * Bytes(tensors.embedding) / static_cast<double>(tensors.embedding.rows), 0, 0});
  add(StepOp::kAttention, {static_cast<double>(kv_bytes_per_token) * shape.context_read, 0, 0});
  add(StepOp::kHead, CostOfMatrices({&tensors.head}, shape.logit_rows, /*fp8=*/false));
  return cost;
}

WorkCost Total(const StepCost& cost) {
  WorkCost total;
  for (const WorkCost& op : cost) total += op;
  return total;
}

}  // namespace braid
