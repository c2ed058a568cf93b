#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/block_allocator.h"
#include "expert_worker/sampler.h"
#include "model/kv_cache.h"

namespace braid {

// What this worker knows of a sequence that it owns.
struct Sequence {
  v1::SequenceStart start;
  SequenceCache cache;  // with all blocks it will ever need
  int length = 0;       // positions [0, length) are in the cache
  TokenCounts counts;   // kept only if its sampling has penalties
  // Logits behind the last prompt token so far, kept while prompt scores are wanted: they score the first token of the
  // next chunk. Empty otherwise.
  std::vector<float> score_next;
  std::string error;  // not empty: its logits were not finite
};

// The sequences of one worker and the KV blocks they hold. The router decides; this refuses what contradicts itself.
// Thread-compatible.
class SequenceTable {
 public:
  // `config` and `kv` must outlive *this.
  SequenceTable(const ModelConfig* config, const KvPool* kv, int sequences_max);

  // kInvalidArgument naming the field; kResourceExhausted if there are not as many blocks or places free, so that the
  // router's accounting and ours differ.
  absl::Status Start(const v1::SequenceStart& start);
  // Forgets it and frees its blocks; nothing happens if it is unknown.
  void Release(SequenceId id);
  void Clear();

  // Null if unknown. Valid until it is released.
  Sequence* Find(SequenceId id);
  int size() const { return static_cast<int>(sequences_.size()); }
  const BlockAllocator& blocks() const { return blocks_; }

 private:
  const ModelConfig* config_;
  const KvPool* kv_;
  const int sequences_max_;
  BlockAllocator blocks_;
  absl::node_hash_map<SequenceId, Sequence> sequences_;
};

}  // namespace braid
