#pragma once

#include <functional>
#include <span>

#include "absl/status/statusor.h"
#include "cli/bench_quality/divergence.h"
#include "cli/bench_quality/sequences.h"
#include "kernels/kv_arena.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/tensors.h"

namespace braid {

struct QualityRunOptions {
  int rows_max = 256;                  // of a step; the figures do not depend on it
  KvType kv_type = KvType::kBFloat16;  // of the candidate
  // Hears of the logits of each step, (rows, V) each, in the order of the tokens.
  std::function<absl::Status(std::span<const float> reference, std::span<const float> candidate)> logits;
  std::function<void(int tokens_done)> progress;
};

// Runs the sequences through two engines that differ in their tensors, and maybe in their keys and values, and compares
// them at every position. REQUIRES: the configuration has been validated against both; no sequence is empty.
absl::StatusOr<QualityFigures> CompareEngines(const ModelConfig& config, const ModelTensors& reference,
                                              const ModelTensors& candidate, const TokenSequences& sequences,
                                              const QualityRunOptions& options, ThreadPool* pool);

}  // namespace braid
