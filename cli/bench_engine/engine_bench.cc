#include "cli/bench_engine/engine_bench.h"

#include <algorithm>
#include <chrono>

#include "base/rng.h"
#include "base/status.h"
#include "model/chunk.h"

namespace braid {
namespace {

MachineLimits Mean(const MachineLimits& a, const MachineLimits& b) {
  return {(a.read_bytes_per_second + b.read_bytes_per_second) / 2, (a.int8_ops_per_second + b.int8_ops_per_second) / 2};
}

class EngineBench {
 public:
  EngineBench(const ModelConfig& config, const ModelTensors& tensors, const EngineBenchOptions& options,
              BenchedEngine* engine)
      : config_(config),
        tensors_(tensors),
        options_(options),
        engine_(engine),
        kv_bytes_per_token_(KvBlockBytes(config, options.kv_type) / kKvBlockTokens) {}

  absl::StatusOr<EngineBenchResults> Run(const std::vector<BenchPoint>& points,
                                         const std::function<void(const BenchPoint&)>& progress);

 private:
  absl::Status WarmUp(const std::vector<BenchPoint>& points);
  absl::Status Sample(PointResult& result);
  // What a sample cannot do on the way: the same steps without graphs, and then with each op timed.
  absl::Status RunPlainly(PointResult& result);
  absl::StatusOr<double> PromptSeconds(PointResult& result);
  absl::StatusOr<double> DecodeSeconds(PointResult& result);
  absl::StatusOr<double> StepSeconds(const std::vector<Chunk>& chunks, PointResult& result);
  // Sequences with room for what the point needs, in blocks and slots from the first one.
  std::vector<SequenceCache> NewSequences(const BenchPoint& point);
  std::vector<TokenId> RandomTokens(int count);

  const ModelConfig& config_;
  const ModelTensors& tensors_;
  const EngineBenchOptions& options_;
  BenchedEngine* const engine_;
  const uint64_t kv_bytes_per_token_;
  bool sampling_ = true, profiling_ = false;  // what steps at hand are for
  std::vector<WorkCost> step_costs_;          // of the sample at hand
  MachineLimits machine_;                     // when last measured
  uint64_t tokens_drawn_ = 0;
};

std::vector<SequenceCache> EngineBench::NewSequences(const BenchPoint& point) {
  const int64_t blocks = point.KvBlocks(options_.steps) / point.sequences;
  std::vector<SequenceCache> sequences;
  for (int64_t i = 0, block = 0; i < point.sequences; ++i) {
    sequences.push_back({.conv_slot = static_cast<int32_t>(i)});
    for (int64_t end = block + blocks; block < end; ++block)
      sequences.back().blocks.push_back(static_cast<int32_t>(block));
  }
  return sequences;
}

std::vector<TokenId> EngineBench::RandomTokens(int count) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens)
    token = static_cast<TokenId>(UniformAt(options_.seed, 0, tokens_drawn_++) * config_.vocab_size);
  return tokens;
}

absl::StatusOr<double> EngineBench::StepSeconds(const std::vector<Chunk>& chunks, PointResult& result) {
  engine_->Profile(profiling_ ? &result.profile : nullptr);
  result.profiled_steps += profiling_;
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(engine_->Run(chunks));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  StepShape shape;
  for (const Chunk& chunk : chunks) {
    shape.AddChunk(chunk.position, static_cast<int>(chunk.tokens.size()));
    if (chunk.logits == Chunk::Logits::kLast) ++shape.logit_rows;
  }
  shape.experts_touched = static_cast<double>(engine_->ExpertsTouched());
  if (!sampling_) return seconds;
  result.graph_launches = std::max(result.graph_launches, engine_->graph_launches());
  const StepCost cost = CostOfStep(config_, tensors_, kv_bytes_per_token_, shape, options_.fp8);
  step_costs_.push_back(Total(cost));
  for (int op = 0; op < kStepOps; ++op) result.cost[op] += cost[op];
  result.experts_touched += shape.experts_touched;
  ++result.steps;
  return seconds;
}

// Of the whole prompt.
absl::StatusOr<double> EngineBench::PromptSeconds(PointResult& result) {
  std::vector<SequenceCache> sequences = NewSequences(result.point);
  const std::vector<TokenId> tokens = RandomTokens(result.point.tokens);
  double seconds = 0;
  for (int at = 0; at < result.point.tokens; at += options_.chunk) {
    const int count = std::min(options_.chunk, result.point.tokens - at);
    const bool last = at + count == result.point.tokens;
    const Chunk chunk{&sequences[0], at, std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
                      last ? Chunk::Logits::kLast : Chunk::Logits::kNone};
    ASSIGN_OR_RETURN(const double step, StepSeconds({chunk}, result));
    seconds += step;
  }
  return seconds;
}

// Of a step, the median.
absl::StatusOr<double> EngineBench::DecodeSeconds(PointResult& result) {
  std::vector<SequenceCache> sequences = NewSequences(result.point);
  std::vector<double> seconds;
  for (int step = 0; step < options_.steps; ++step) {
    const std::vector<TokenId> tokens = RandomTokens(result.point.sequences);
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < sequences.size(); ++i)
      chunks.push_back({&sequences[i], result.point.tokens + step, std::span(tokens).subspan(i, 1)});
    ASSIGN_OR_RETURN(const double step_seconds, StepSeconds(chunks, result));
    seconds.push_back(step_seconds);
  }
  return Median(seconds);
}

absl::Status EngineBench::Sample(PointResult& result) {
  step_costs_.clear();
  const bool prompt = result.point.kind == BenchPoint::Kind::kPrompt;
  ASSIGN_OR_RETURN(const double seconds, prompt ? PromptSeconds(result) : DecodeSeconds(result));
  const MachineLimits before = std::exchange(machine_, engine_->Measure());
  const MachineLimits machine = Mean(before, machine_);
  double limit_seconds = 0;
  for (const WorkCost& cost : step_costs_) limit_seconds += cost.Seconds(machine);
  if (!prompt) limit_seconds /= static_cast<double>(step_costs_.size());
  const double tokens = prompt ? result.point.tokens : result.point.sequences;
  result.samples.push_back({tokens / seconds, tokens / limit_seconds, machine});
  return absl::OkStatus();
}

absl::Status EngineBench::RunPlainly(PointResult& result) {
  const auto run = [&] {
    return result.point.kind == BenchPoint::Kind::kPrompt ? PromptSeconds(result) : DecodeSeconds(result);
  };
  sampling_ = false;
  engine_->UseGraphs(false);
  ASSIGN_OR_RETURN(const double seconds, run());
  const int chunks = (result.point.tokens + options_.chunk - 1) / options_.chunk;
  result.plain_step_seconds = result.point.kind == BenchPoint::Kind::kPrompt ? seconds / chunks : seconds;
  profiling_ = true;
  RETURN_IF_ERROR(run().status());
  profiling_ = false;
  engine_->UseGraphs(true);
  sampling_ = true;
  return absl::OkStatus();
}

// Once through what all points have in common: pages, caches, buffers that grow.
absl::Status EngineBench::WarmUp(const std::vector<BenchPoint>& points) {
  for (const BenchPoint& point : points) {
    PointResult unused;
    unused.point = point;
    if (point.kind == BenchPoint::Kind::kPrompt) {
      unused.point.tokens = std::min(point.tokens, options_.chunk);
      RETURN_IF_ERROR(PromptSeconds(unused).status());
    } else {
      std::vector<SequenceCache> sequences = NewSequences(point);
      const std::vector<TokenId> tokens = RandomTokens(point.sequences);
      std::vector<Chunk> chunks;
      for (size_t i = 0; i < sequences.size(); ++i)
        chunks.push_back({&sequences[i], point.tokens, std::span(tokens).subspan(i, 1)});
      RETURN_IF_ERROR(StepSeconds(chunks, unused).status());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EngineBenchResults> EngineBench::Run(const std::vector<BenchPoint>& points,
                                                    const std::function<void(const BenchPoint&)>& progress) {
  EngineBenchResults results;
  for (const BenchPoint& point : points) results.points.emplace_back().point = point;
  RETURN_IF_ERROR(WarmUp(points));
  profiling_ = engine_->profiles_freely();
  machine_ = engine_->Measure();
  for (int round = 0; round < options_.repeat; ++round) {
    for (PointResult& result : results.points) {
      progress(result.point);
      RETURN_IF_ERROR(Sample(result));
    }
  }
  if (!engine_->profiles_freely()) {
    for (PointResult& result : results.points) RETURN_IF_ERROR(RunPlainly(result));
  }
  engine_->Profile(nullptr);
  results.kv_bytes_per_token = kv_bytes_per_token_;
  results.kv_values_per_token = 2 * static_cast<uint64_t>(config_.attention_layer_count()) * config_.kv_dim();
  results.kv_bytes = static_cast<uint64_t>(SizesFor(options_, points).blocks) * kv_bytes_per_token_ * kKvBlockTokens;
  results.moe_layers = config_.moe_layer_count();
  results.memory_bytes_beyond = engine_->MemoryBytesBeyond();
  results.multiplies_with = engine_->multiplies_with();
  return results;
}

double MedianOf(const std::vector<PointSample>& samples, const std::function<double(const PointSample&)>& value) {
  std::vector<double> values;
  for (const PointSample& sample : samples) values.push_back(value(sample));
  return Median(std::move(values));
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double PointResult::TokensPerSecond() const {
  return MedianOf(samples, [](const PointSample& sample) { return sample.tokens_per_second; });
}

double PointResult::LimitTokensPerSecond() const {
  return MedianOf(samples, [](const PointSample& sample) { return sample.limit_tokens_per_second; });
}

double PointResult::LimitShare() const {
  return MedianOf(samples,
                  [](const PointSample& sample) { return sample.tokens_per_second / sample.limit_tokens_per_second; });
}

MachineLimits PointResult::Machine() const {
  return {MedianOf(samples, [](const PointSample& sample) { return sample.machine.read_bytes_per_second; }),
          MedianOf(samples, [](const PointSample& sample) { return sample.machine.int8_ops_per_second; })};
}

StateSizes SizesFor(const EngineBenchOptions& options, const std::vector<BenchPoint>& points) {
  StateSizes sizes;
  for (const BenchPoint& point : points) {
    sizes.blocks = std::max(sizes.blocks, static_cast<int>(point.KvBlocks(options.steps)));
    sizes.sequences = std::max(sizes.sequences, point.sequences);
  }
  return sizes;
}

absl::StatusOr<EngineBenchResults> RunEngineBench(const ModelConfig& config, const ModelTensors& tensors,
                                                  const EngineBenchOptions& options,
                                                  const std::vector<BenchPoint>& points, BenchedEngine* engine,
                                                  const std::function<void(const BenchPoint&)>& progress) {
  return EngineBench(config, tensors, options, engine).Run(points, progress);
}

}  // namespace braid
