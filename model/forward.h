#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/kv_cache.h"
#include "model/tensors.h"

namespace braid {

// A run of consecutive positions of one sequence in a step: a piece of prefill, or the one token of a decode.
struct Chunk {
  SequenceCache* cache = nullptr;  // must own blocks for every position below position + tokens.size()
  int position = 0;
  std::span<const TokenId> tokens;  // at least one; each in [0, vocab)
  enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
};

// The LFM2 / LFM2-MoE forward pass over the kernels' ops, in float32 with the weights in their own precision.
// Exact: the bits of a row depend on that sequence's tokens alone, not on chunking, batch, threads or where experts
// run.
class Forward {
 public:
  // All must outlive *this. The configuration has been validated against the tensors.
  Forward(const ModelConfig* config, const ModelTensors* tensors, KvPool* kv, ThreadPool* pool);
  ~Forward();

  // Runs one step over `chunks` (may be empty: the MoE layers still run, for the peers' sake). `logits` gets (L, V)
  // rows in the order of the chunks and positions that asked for them. On an error nothing of the step may be used;
  // sequences can go on from any position <= the chunk's after a rollback of at most kConvColumns - (C - 1) positions.
  // Not thread-safe. REQUIRES: at most rows_max rows over all chunks.
  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits);

  static constexpr int kRowsMax = 4096;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace braid
