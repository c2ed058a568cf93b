#include "router/group.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace braid {

Group::Group(Epoch epoch, uint32_t kv_block_tokens, std::vector<Worker> workers)
    : epoch_(epoch), kv_block_tokens_(kv_block_tokens), workers_(std::move(workers)) {
  CHECK_GE(kv_block_tokens_, 1u);
  CHECK(!workers_.empty());
}

uint64_t Group::kv_blocks_used() const {
  uint64_t used = 0;
  for (const Worker& worker : workers_) used += worker.kv_blocks_used;
  return used;
}

uint64_t Group::kv_blocks_total() const {
  uint64_t total = 0;
  for (const Worker& worker : workers_) total += worker.kv_blocks_total;
  return total;
}

uint64_t Group::tokens_max() const {
  uint64_t blocks = 0;
  for (const Worker& worker : workers_) blocks = std::max(blocks, worker.kv_blocks_total);
  return blocks * kv_block_tokens_;
}

std::optional<int> Group::PickOwner(uint64_t blocks) const {
  auto load = [this](int rank) {
    const Worker& w = worker(rank);
    return std::tuple(static_cast<double>(w.kv_blocks_used) / static_cast<double>(w.kv_blocks_total), w.sequences);
  };
  std::optional<int> best;
  for (int rank = 0; rank < size(); ++rank) {
    if (worker(rank).draining || !HasRoom(worker(rank), blocks)) continue;
    if (!best || load(rank) < load(*best)) best = rank;
  }
  return best;
}

void Group::Reserve(int rank, uint64_t blocks) {
  Worker& worker = workers_.at(static_cast<size_t>(rank));
  CHECK(HasRoom(worker, blocks));
  worker.kv_blocks_used += blocks;
  ++worker.sequences;
}

void Group::Release(int rank, uint64_t blocks) {
  Worker& worker = workers_.at(static_cast<size_t>(rank));
  CHECK_GE(worker.kv_blocks_used, blocks);
  CHECK_GE(worker.sequences, 1);
  worker.kv_blocks_used -= blocks;
  --worker.sequences;
}

bool Group::HasRoom(const Worker& worker, uint64_t blocks) const {
  return worker.sequences < worker.sequences_max && blocks <= worker.kv_blocks_total - worker.kv_blocks_used;
}

}  // namespace braid
