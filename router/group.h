#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "router/kv_ledger.h"

namespace braid {

// Whether a worker or a group of that load is to be preferred to the idlest one, because it knows `gain` more tokens of
// `tokens`. That must be an eighth: all prompts begin with a few that they have in common. And it may be a quarter
// busier, or have this many sequences more while there are few.
inline bool WorthTheQueue(int gain, size_t tokens, int load, int idlest) {
  return gain > 0 && static_cast<size_t>(gain) * 8 >= tokens && load <= idlest + idlest / 4 + 4;
}

// The workers of one epoch as the scheduler sees them: how much memory each has, what is promised of it, and what lies
// in it already. Members are named by rank.
class Group {
 public:
  struct Worker {
    WorkerId id;
    uint64_t kv_blocks_total = 0;
    int sequences_max = 0;
    int step_tokens_max = 0;  // rows of one step
    int snapshots_max = 0;    // of its prefix cache
    bool draining = false;    // gets no new sequences
    // Shared with the sequences that hold memory in it. Left empty, it is a new one.
    std::shared_ptr<KvLedger> ledger = nullptr;
  };

  // REQUIRES: at least one worker, kv_block_tokens >= 1.
  Group(Epoch epoch, uint32_t kv_block_tokens, std::vector<Worker> workers);

  Epoch epoch() const { return epoch_; }
  int kv_block_tokens() const { return static_cast<int>(kv_block_tokens_); }
  int size() const { return static_cast<int>(workers_.size()); }
  const Worker& worker(int rank) const { return workers_[static_cast<size_t>(rank)]; }
  const std::vector<Worker>& workers() const { return workers_; }
  uint64_t kv_blocks_used() const;  // by sequences
  uint64_t kv_blocks_total() const;

  uint64_t BlocksFor(uint64_t tokens) const { return (tokens + kv_block_tokens_ - 1) / kv_block_tokens_; }
  // Positions that the roomiest worker could hold for one sequence.
  uint64_t tokens_max() const;

  // The owner for a new sequence of `blocks`: among those with room, the one that knows most of its beginning, if that
  // is worth it; else the one with the smallest share of its KV promised, then the fewest sequences, then the lowest
  // rank. nullopt if nobody has room now.
  std::optional<int> PickOwner(uint64_t blocks, const Beginning& beginning = {}) const;
  void SetDraining(int rank) { workers_.at(static_cast<size_t>(rank)).draining = true; }
  // The books of the worker, which go on over epochs.
  void TakeOver(int rank, std::shared_ptr<KvLedger> ledger);

 private:
  bool HasRoom(const Worker& worker, uint64_t blocks, const Beginning& beginning) const;

  Epoch epoch_;
  uint64_t kv_block_tokens_;
  std::vector<Worker> workers_;
};

}  // namespace braid
