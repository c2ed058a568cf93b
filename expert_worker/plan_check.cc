#include "expert_worker/plan_check.h"

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "base/status.h"

namespace braid {
namespace {

absl::Status CheckDrafts(const v1::SequenceChunk& chunk, const ModelConfig& config, const OwnedSequence& sequence) {
  if (chunk.drafts() == 0) return absl::OkStatus();
  const int rows_max = ShortRunTokens(config);  // what going on from inside of it takes back
  if (!chunk.sample() || int64_t{chunk.tokens_size()} != int64_t{chunk.drafts()} + 1 ||
      chunk.tokens_size() > rows_max) {
    return InvalidArgument(
        fmt::format("{} drafts in {} tokens; one token goes before them, it is sampled, and {} are "
                    "the most",
                    chunk.drafts(), chunk.tokens_size(), rows_max - 1));
  }
  if (!sequence.InAnswer(sequence.length)) return InvalidArgument("drafts behind a token of the prompt");
  return absl::OkStatus();
}

absl::Status CheckChunk(const v1::SequenceChunk& chunk, const ModelConfig& config, const OwnedSequence& sequence) {
  const int64_t end = int64_t{chunk.position()} + chunk.tokens_size();
  const int64_t room = static_cast<int64_t>(sequence.cache.blocks.size()) * kKvBlockTokens;
  if (chunk.tokens().empty()) return InvalidArgument("tokens is empty");
  if (chunk.position() != static_cast<uint32_t>(sequence.length)) {
    return InvalidArgument(fmt::format("position is {}, the sequence stands at {}", chunk.position(), sequence.length));
  }
  if (end > room) return InvalidArgument(fmt::format("ends at {}, {} positions are reserved", end, room));
  if (end > config.context_tokens_max) {
    return InvalidArgument(fmt::format("ends at {}, the context has {}", end, config.context_tokens_max));
  }
  if (chunk.sample() && end < sequence.start.prompt_tokens()) {
    return InvalidArgument(fmt::format("samples at {}, inside the prompt of {}", end, sequence.start.prompt_tokens()));
  }
  RETURN_IF_ERROR(CheckDrafts(chunk, config, sequence));
  for (const v1::SnapshotSave& save : chunk.saves()) {
    if (save.position() > chunk.position() && save.position() <= end && save.position() % kKvBlockTokens == 0) continue;
    return InvalidArgument(fmt::format("saves at {}, not at the end of a block in it", save.position()));
  }
  for (const int32_t token : chunk.tokens()) {
    if (token < 0 || token >= config.vocab_size) {
      return InvalidArgument(fmt::format("token {} is not in [0, {})", token, config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSaves(const v1::StepPlan& plan, const SnapshotStore& snapshots) {
  absl::flat_hash_set<uint64_t> seen;
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    for (const v1::SnapshotSave& save : chunk.saves()) {
      if (save.snapshot() == 0 || snapshots.Find(save.snapshot()) || !seen.insert(save.snapshot()).second) {
        return InvalidArgument(fmt::format("snapshot {} is saved twice, or is 0", save.snapshot()));
      }
    }
  }
  const int count = snapshots.size() + static_cast<int>(seen.size());
  if (count <= snapshots.snapshots_max()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("{} snapshots, there is memory for {}", count, snapshots.snapshots_max()));
}

}  // namespace

absl::Status CheckChunks(const v1::StepPlan& plan, const ModelConfig& config, int step_tokens_max,
                         SequenceTable& table) {
  absl::flat_hash_set<uint64_t> seen;
  int64_t rows = 0;
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    const std::string context = fmt::format("chunk of sequence {}", chunk.sequence());
    const OwnedSequence* sequence = table.Find(SequenceId(chunk.sequence()));
    if (!sequence) return InvalidArgument(context + ": the sequence is not here");
    if (!seen.insert(chunk.sequence()).second) return InvalidArgument(context + ": a second one in this step");
    RETURN_IF_ERROR(Annotate(CheckChunk(chunk, config, *sequence), context));
    rows += chunk.tokens_size();
  }
  if (rows > step_tokens_max)
    return InvalidArgument(fmt::format("{} rows, at most {} in a step", rows, step_tokens_max));
  if (rows > plan.rows_max() || plan.rows_max() > static_cast<uint32_t>(step_tokens_max)) {
    return InvalidArgument(fmt::format("rows_max is {}: there are {} rows, and {} at most in a step", plan.rows_max(),
                                       rows, step_tokens_max));
  }
  return CheckSaves(plan, table.snapshots());
}

}  // namespace braid
