#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_engine/roofline.h"
#include "kernels/kv_arena.h"
#include "model/config.h"

// What is measured of an engine. Pure.

namespace braid {

// A prompt of `tokens` that one sequence brings in chunks, or steps in which each of `sequences` adds one token to
// `tokens` that it has behind it.
struct BenchPoint {
  enum class Kind { kPrompt, kDecode };
  Kind kind = Kind::kPrompt;
  int sequences = 1;
  int tokens = 0;

  bool operator==(const BenchPoint&) const = default;
  std::string Name() const;  // "decode, 8 sequences at 16384"
  // Positions that its sequences need room for, in whole KV blocks.
  int64_t KvBlocks(int steps) const;
};

struct EngineBenchOptions {
  int threads = 1;
  int chunk = 512;  // rows of a prompt in one step
  int steps = 16;   // of decode, in one sample
  int repeat = 3;   // samples of each point
  uint64_t seed = 1;
  KvType kv_type = KvType::kBFloat16;
  uint64_t kv_bytes_max = uint64_t{1} << 30;
  Fp8 fp8 = Fp8::kNone;
  uint64_t weight_copy_bytes = 0;          // of the weights, what this process has copies of in memory of its own
  std::vector<int> prompts = {512, 8192};  // zeros count for nothing here and in `batches`
  std::vector<int> batches = {1, 8, 16, 32};
  std::vector<int> contexts = {0, 16384};  // each with each of `batches`
};

struct BenchPlan {
  std::vector<BenchPoint> points;
  std::vector<std::string> left_out;  // what and why
};

// `kv_block_bytes`: of all layers.
BenchPlan PlanPoints(const EngineBenchOptions& options, const ModelConfig& config, uint64_t kv_block_bytes);

}  // namespace braid
