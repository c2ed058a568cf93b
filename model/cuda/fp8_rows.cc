#include "model/cuda/fp8_rows.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/quantize_rows.h"
#include "model/cuda/device.h"

namespace braid::gpu {

Fp8Rows::Fp8Rows(const ModelConfig& config, int rows_max, int expert_rows_max, MemoryPlan* plan) {
  const int dense =
      std::max({config.model_dim, config.heads * config.head_dim, config.dense_layers > 0 ? config.dense_ffn_dim : 0});
  const int expert = config.experts > 0 ? std::max(config.model_dim, config.expert_ffn_dim) : 0;
  const auto most = [&](int64_t of_dense, int64_t of_expert) {
    return std::max(rows_max * of_dense, expert_rows_max * of_expert);
  };
  quants_at_ = plan->Add<uint8_t>(MemoryPlan::Part::kActivations, most(dense, expert));
  scales_at_ = plan->Add<uint16_t>(MemoryPlan::Part::kActivations, most(Fp8Blocks(dense), Fp8Blocks(expert)));
}

void Fp8Rows::Bind(std::byte* memory) {
  quants_ = reinterpret_cast<uint8_t*>(memory + quants_at_);
  scales_ = reinterpret_cast<uint16_t*>(memory + scales_at_);
}

absl::Status Fp8Rows::Round(GroupedLinear* op, cudaStream_t stream) const {
  QuantizeRows round{op->rows_max, op->K, op->type, op->x, quants_, scales_};
  round.source = op->source;
  round.rows = op->offsets + op->E;
  RETURN_IF_ERROR(Check(round));
  RETURN_IF_ERROR(CudaError(gpu::Run(round, stream), "launching a kernel"));
  Use(op);
  return absl::OkStatus();
}

void Fp8Rows::Use(GroupedLinear* op) const {
  CHECK(Feeds(op->w));
  op->type = kFp8;
  op->x = quants_;
  op->x_scales = scales_;
  op->source = nullptr;
}

}  // namespace braid::gpu
