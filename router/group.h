#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"

namespace braid {

// The workers of one epoch as the scheduler sees them: how much memory each has and how much of it is promised. Members
// are named by rank.
class Group {
 public:
  struct Worker {
    WorkerId id;
    uint64_t kv_blocks_total = 0;
    int sequences_max = 0;
    int step_tokens_max = 0;  // rows of one step
    uint64_t kv_blocks_used = 0;
    int sequences = 0;
    bool draining = false;  // gets no new sequences
  };

  // REQUIRES: at least one worker, kv_block_tokens >= 1.
  Group(Epoch epoch, uint32_t kv_block_tokens, std::vector<Worker> workers);

  Epoch epoch() const { return epoch_; }
  int size() const { return static_cast<int>(workers_.size()); }
  const Worker& worker(int rank) const { return workers_[static_cast<size_t>(rank)]; }
  const std::vector<Worker>& workers() const { return workers_; }
  uint64_t kv_blocks_used() const;
  uint64_t kv_blocks_total() const;

  uint64_t BlocksFor(uint64_t tokens) const { return (tokens + kv_block_tokens_ - 1) / kv_block_tokens_; }
  // Positions that the roomiest worker could hold for one sequence.
  uint64_t tokens_max() const;

  // The owner for a new sequence of `blocks`: among those with room, the one with the smallest share of its KV
  // promised, then the fewest sequences, then the lowest rank. Knowing which worker has a prompt's prefix cached would
  // come first here. nullopt if nobody has room now.
  std::optional<int> PickOwner(uint64_t blocks) const;
  // Whether `rank` has room for them now, draining or not.
  bool HasRoom(int rank, uint64_t blocks) const { return HasRoom(worker(rank), blocks); }
  void SetDraining(int rank) { workers_.at(static_cast<size_t>(rank)).draining = true; }
  // REQUIRES: HasRoom(rank, blocks).
  void Reserve(int rank, uint64_t blocks);
  void Release(int rank, uint64_t blocks);

 private:
  bool HasRoom(const Worker& worker, uint64_t blocks) const;

  Epoch epoch_;
  uint64_t kv_block_tokens_;
  std::vector<Worker> workers_;
};

}  // namespace braid
