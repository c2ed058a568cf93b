#include "cli/bench_engine/points.h"

#include "base/human.h"
#include "model/sequence_states.h"

namespace braid {

std::string BenchPoint::Name() const {
  if (kind == Kind::kPrompt) return "prompt of " + std::to_string(tokens);
  return "decode, " + std::to_string(sequences) + (sequences == 1 ? " sequence" : " sequences") +
         (tokens > 0 ? " at " + std::to_string(tokens) : "");
}

int64_t BenchPoint::KvBlocks(int steps) const {
  const int64_t positions = tokens + (kind == Kind::kDecode ? steps : 0);
  return sequences * ((positions + kKvBlockTokens - 1) / kKvBlockTokens);
}

BenchPlan PlanPoints(const EngineBenchOptions& options, const ModelConfig& config, uint64_t kv_block_bytes) {
  BenchPlan plan;
  const auto add = [&](const BenchPoint& point, int positions) {
    const uint64_t bytes = static_cast<uint64_t>(point.KvBlocks(options.steps)) * kv_block_bytes;
    if (positions > config.context_tokens_max) {
      plan.left_out.push_back(point.Name() + ": the model's context ends at " +
                              std::to_string(config.context_tokens_max));
    } else if (bytes > options.kv_bytes_max) {
      plan.left_out.push_back(point.Name() + ": its keys and values would take " + HumanBytes(bytes) + ", more than " +
                              HumanBytes(options.kv_bytes_max));
    } else {
      plan.points.push_back(point);
    }
  };
  for (int tokens : options.prompts)
    if (tokens > 0) add({BenchPoint::Kind::kPrompt, 1, tokens}, tokens);
  for (int context : options.contexts)
    for (int batch : options.batches)
      if (batch > 0) add({BenchPoint::Kind::kDecode, batch, context}, context + options.steps);
  return plan;
}

}  // namespace braid
