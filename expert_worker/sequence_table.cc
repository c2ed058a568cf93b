#include "expert_worker/sequence_table.h"

#include <fmt/format.h>

#include <utility>

#include "base/status.h"

namespace braid {
namespace {

constexpr uint32_t kTopLogprobsMax = 20;

absl::Status CheckStart(const v1::SequenceStart& start, const ModelConfig& config, int blocks_total) {
  if (start.prompt_tokens() < 1) return InvalidArgument("prompt_tokens is 0");
  if (start.prompt_tokens() > static_cast<uint32_t>(config.context_tokens_max)) {
    return InvalidArgument(
        fmt::format("prompt_tokens is {}, the context has {}", start.prompt_tokens(), config.context_tokens_max));
  }
  if (start.kv_blocks() < 1 || start.kv_blocks() > static_cast<uint32_t>(blocks_total)) {
    return InvalidArgument(fmt::format("kv_blocks is {}, the pool has {}", start.kv_blocks(), blocks_total));
  }
  if (start.top_logprobs() > kTopLogprobsMax) {
    return InvalidArgument(fmt::format("top_logprobs is {}, at most {}", start.top_logprobs(), kTopLogprobsMax));
  }
  return CheckSampling(start.sampling(), config.vocab_size);
}

}  // namespace

SequenceTable::SequenceTable(const ModelConfig* config, const KvPool* kv, int sequences_max)
    : config_(config), kv_(kv), sequences_max_(sequences_max), blocks_(kv->blocks()) {}

absl::Status SequenceTable::Start(const v1::SequenceStart& start) {
  const SequenceId id(start.sequence());
  const std::string context = fmt::format("start of sequence {}", id.value);
  RETURN_IF_ERROR(Annotate(CheckStart(start, *config_, blocks_.total()), context));
  if (sequences_.contains(id)) return InvalidArgument(context + ": it is here already");
  if (size() >= sequences_max_)
    return absl::ResourceExhaustedError(fmt::format("{}: {} are here already", context, size()));
  absl::StatusOr<std::vector<int32_t>> blocks = blocks_.Allocate(static_cast<int>(start.kv_blocks()));
  if (!blocks.ok()) return Annotate(blocks.status(), context);
  Sequence& sequence = sequences_[id];
  sequence.start = start;
  sequence.cache = kv_->NewSequence();
  sequence.cache.blocks = *std::move(blocks);
  return absl::OkStatus();
}

void SequenceTable::Release(SequenceId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  blocks_.Release(it->second.cache.blocks);
  sequences_.erase(it);
}

void SequenceTable::Clear() {
  for (const auto& [id, sequence] : sequences_) blocks_.Release(sequence.cache.blocks);
  sequences_.clear();
}

Sequence* SequenceTable::Find(SequenceId id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : &it->second;
}

}  // namespace braid
