#include "cli/bench_engine/roofline.h"

#include <initializer_list>

#include "base/check.h"

namespace braid {
namespace {

double Values(const TensorView& tensor) {
  return static_cast<double>(tensor.rows) * static_cast<double>(tensor.columns);
}

bool IsFp8(const TensorView& tensor, Fp8 fp8) { return fp8 != Fp8::kNone && Info(tensor.dtype).elements == 1; }

// As its type has it, however it is laid out; what is FP8 has a scale to 128 columns.
double Bytes(const TensorView& tensor, Fp8 fp8 = Fp8::kNone) {
  if (tensor.empty()) return 0;
  if (IsFp8(tensor, fp8)) return Values(tensor) * (1 + 2.0 / 128);
  return static_cast<double>(tensor.rows) *
         static_cast<double>(RowBytes(tensor.dtype, static_cast<uint64_t>(tensor.columns)));
}

// Matrices that `rows` rows are multiplied with.
WorkCost CostOfMatrices(std::initializer_list<const TensorView*> matrices, double rows, Fp8 fp8) {
  WorkCost cost;
  if (rows == 0) return cost;
  for (const TensorView* matrix : matrices) {
    const double rate = fp8 == Fp8::kRowsToo && IsFp8(*matrix, fp8) ? 2 : 1;
    cost += {Bytes(*matrix, fp8), 2 * rows * Values(*matrix) / rate, 0};
  }
  return cost;
}

WorkCost CostOfFfn(const FfnTensors& ffn, double rows, Fp8 fp8) {
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
                    const StepShape& shape, Fp8 fp8) {
  CHECK_EQ(tensors.layers.size(), config.layers.size());
  StepCost cost;
  const auto add = [&cost](StepOp op, const WorkCost& more) { cost[static_cast<size_t>(op)] += more; };
  const double rows = shape.rows;
  for (int i = 0; i < config.layer_count(); ++i) {
    const LayerTensors& layer = tensors.layers[i];
    if (config.layers[i] == ModelConfig::LayerKind::kAttention) {
      add(StepOp::kQkv, CostOfMatrices({&layer.q, &layer.k, &layer.v}, rows, fp8));
      add(StepOp::kAttnOut, CostOfMatrices({&layer.attn_out}, rows, fp8));
      // A query times a key and a weight times a value: 4 operations per value of a head.
      add(StepOp::kAttention, {0, 0, 4.0 * config.heads * config.head_dim * shape.context_visited});
    } else {
      add(StepOp::kConvIn, CostOfMatrices({&layer.conv_in}, rows, fp8));
      add(StepOp::kConvOut, CostOfMatrices({&layer.conv_out}, rows, fp8));
    }
    if (!config.is_moe_layer(i)) {
      add(StepOp::kFfn, CostOfFfn(layer.dense, rows, fp8));
      continue;
    }
    add(StepOp::kRouter, CostOfMatrices({&layer.router}, rows, Fp8::kNone));
    WorkCost experts = CostOfFfn(layer.experts.at(0), rows * config.experts_per_token, fp8);
    experts.bytes *= shape.experts_touched / config.moe_layer_count();
    add(StepOp::kExperts, experts);
  }
  add(StepOp::kEmbed, {rows * Bytes(tensors.embedding) / static_cast<double>(tensors.embedding.rows), 0, 0});
  add(StepOp::kAttention, {static_cast<double>(kv_bytes_per_token) * shape.context_read, 0, 0});
  add(StepOp::kHead, CostOfMatrices({&tensors.head}, shape.logit_rows, Fp8::kNone));
  return cost;
}

WorkCost Total(const StepCost& cost) {
  WorkCost total;
  for (const WorkCost& op : cost) total += op;
  return total;
}

}  // namespace braid
