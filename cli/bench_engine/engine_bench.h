#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_engine/benched_engine.h"
#include "cli/bench_engine/points.h"
#include "cli/bench_engine/roofline.h"
#include "kernels/bench/machine.h"
#include "model/config.h"
#include "model/sequence_states.h"
#include "model/step_profile.h"
#include "model/tensors.h"

namespace braid {

double Median(std::vector<double> values);  // 0 of none

// One measurement of a point, and what the machine could do right before and after it.
struct PointSample {
  double tokens_per_second = 0;
  double limit_tokens_per_second = 0;
  MachineLimits machine;
};

struct PointResult {
  BenchPoint point;
  std::vector<PointSample> samples;

  // Over all samples.
  int64_t steps = 0;  // a chunk of a prompt is one
  StepCost cost;
  double experts_touched = 0;  // distinct ones, added up over steps and MoE layers

  // Of those steps, or of some more where profiling takes its time.
  StepProfile profile;
  int64_t profiled_steps = 0;
  // Where steps are graphs, or could be: operations of one, 0 if none was, and the seconds of a step without.
  int graph_launches = 0;
  double plain_step_seconds = 0;

  double TokensPerSecond() const;
  double LimitTokensPerSecond() const;
  // The median of each sample's share of its own limit.
  double LimitShare() const;
  MachineLimits Machine() const;
};

struct EngineBenchResults {
  std::vector<PointResult> points;
  uint64_t kv_bytes = 0;  // of the whole arena, all of it touched
  uint64_t kv_bytes_per_token = 0;
  uint64_t kv_values_per_token = 0;
  int moe_layers = 0;
  uint64_t memory_bytes_beyond = 0;  // beyond weights, keys and values, after all of the above
  std::string_view multiplies_with;
};

// What the points need room for.
StateSizes SizesFor(const EngineBenchOptions& options, const std::vector<BenchPoint>& points);

// Runs the engine itself, without server or sampler. Points take turns, `repeat` times, so that a bad moment of the
// machine meets all of them. Tokens are random and differ between sequences and samples: sequences of equal tokens
// would share experts. A context is not computed: what keys and values are does not change the speed, how many does.
// REQUIRES: the configuration has been validated against the tensors; `engine` has room for the points. `progress`
// hears of each sample.
absl::StatusOr<EngineBenchResults> RunEngineBench(const ModelConfig& config, const ModelTensors& tensors,
                                                  const EngineBenchOptions& options,
                                                  const std::vector<BenchPoint>& points, BenchedEngine* engine,
                                                  const std::function<void(const BenchPoint&)>& progress);

}  // namespace braid
