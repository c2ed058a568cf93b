#include "cli/bench_quality/quality_run.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "base/status.h"
#include "model/engine.h"

namespace braid {
namespace {

// An engine that runs one sequence after the other.
class SequenceRun {
 public:
  SequenceRun(const ModelConfig& config, const ModelTensors& tensors, size_t tokens_max, KvType kv_type,
              ThreadPool* pool)
      : states_(config, {.blocks = static_cast<int>(tokens_max + kKvBlockTokens - 1) / kKvBlockTokens}, kv_type),
        engine_(MakeEngine(&config, &tensors, &states_, pool)),
        experts_(config.experts, &engine_->experts(), pool),
        cache_{std::vector<int32_t>(static_cast<size_t>(states_.sizes().blocks)), 0} {
    std::iota(cache_.blocks.begin(), cache_.blocks.end(), 0);
  }

  // Of the tokens from `position`, up to which the sequence has run.
  absl::Status Step(std::span<const TokenId> tokens, size_t position) {
    const Chunk chunk{&cache_, static_cast<int>(position), tokens, Chunk::Logits::kAll};
    return engine_->Run({&chunk, 1}, experts_, &logits_);
  }
  std::span<const float> logits() const { return logits_; }

 private:
  HostStates states_;
  std::unique_ptr<Engine> engine_;
  LocalExperts experts_;
  SequenceCache cache_;  // of the sequence at hand
  std::vector<float> logits_;
};

}  // namespace

absl::StatusOr<QualityFigures> CompareEngines(const ModelConfig& config, const ModelTensors& reference,
                                              const ModelTensors& candidate, const TokenSequences& sequences,
                                              const QualityRunOptions& options, ThreadPool* pool) {
  size_t longest = 1;
  for (const auto& sequence : sequences) longest = std::max(longest, sequence.size());
  SequenceRun reference_run(config, reference, longest, KvType::kBFloat16, pool);
  SequenceRun candidate_run(config, candidate, longest, options.kv_type, pool);
  const auto V = static_cast<size_t>(config.vocab_size);
  QualitySum sum;
  int done = 0;
  for (const std::vector<TokenId>& sequence : sequences) {
    for (size_t at = 0; at < sequence.size();) {
      const size_t rows = std::min(static_cast<size_t>(options.rows_max), sequence.size() - at);
      const std::span<const TokenId> tokens = std::span(sequence).subspan(at, rows);
      RETURN_IF_ERROR(reference_run.Step(tokens, at));
      RETURN_IF_ERROR(candidate_run.Step(tokens, at));
      if (options.logits) RETURN_IF_ERROR(options.logits(reference_run.logits(), candidate_run.logits()));
      std::vector<Divergence> divergences(rows);
      const auto next = [&](size_t row) {
        return at + row + 1 < sequence.size() ? std::optional(sequence[at + row + 1]) : std::nullopt;
      };
      pool->ParallelFor(static_cast<int>(rows), 1, [&](int begin, int end) {
        for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row)
          divergences[row] = Compare(reference_run.logits().subspan(row * V, V),
                                     candidate_run.logits().subspan(row * V, V), next(row));
      });
      for (size_t row = 0; row < rows; ++row) sum.Add(divergences[row], next(row).has_value());
      at += rows;
      done += static_cast<int>(rows);
      if (options.progress) options.progress(done);
    }
  }
  return sum.Figures();
}

}  // namespace braid
