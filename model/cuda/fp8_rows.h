#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/grouped_linear.h"
#include "model/config.h"
#include "model/cuda/memory_plan.h"

namespace braid::gpu {

// Where rows become FP8 ahead of products with weights in FP8, for tensor cores that multiply such by such. Other
// products read their rows where they are, in bfloat16. One to an engine, on the stream of its steps: it holds the rows
// of one product at a time.
//
// Each row is rounded by itself, and behind the exchange between devices: what a device gets is what it would have had
// of its own.
class Fp8Rows {
 public:
  // Takes its part of the plan: for dense products of `rows_max` rows, and experts' of `expert_rows_max`.
  Fp8Rows(const ModelConfig& config, int rows_max, int expert_rows_max, MemoryPlan* plan);
  void Bind(std::byte* memory);

  static bool Feeds(const Matrix& w) { return w.type == kFp8; }
  // Enqueues the rounding of op's rows, in op's order, and has it read them here. REQUIRES: Feeds(op->w).
  absl::Status Round(GroupedLinear* op, cudaStream_t stream) const;
  // The same of rows that are here already, in order.
  void Use(GroupedLinear* op) const;
  uint8_t* quants() const { return quants_; }
  uint16_t* scales() const { return scales_; }

 private:
  uint64_t quants_at_ = 0, scales_at_ = 0;
  uint8_t* quants_ = nullptr;   // (rows, columns of whichever product is next)
  uint16_t* scales_ = nullptr;  // (rows, its Fp8Blocks)
};

}  // namespace braid::gpu
