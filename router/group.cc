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
  for (Worker& worker : workers_) {
    if (worker.ledger != nullptr) continue;
    worker.ledger =
        std::make_shared<KvLedger>(worker.kv_blocks_total, static_cast<int>(kv_block_tokens), worker.snapshots_max);
  }
}

uint64_t Group::kv_blocks_used() const {
  uint64_t used = 0;
  for (const Worker& worker : workers_) used += worker.ledger->blocks_used();
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

std::optional<int> Group::PickOwner(uint64_t blocks, const Beginning& beginning) const {
  auto load = [this](int rank) {
    const Worker& w = worker(rank);
    return std::tuple(static_cast<double>(w.ledger->blocks_used()) / static_cast<double>(w.kv_blocks_total),
                      w.ledger->sequences());
  };
  std::optional<int> idlest;
  for (int rank = 0; rank < size(); ++rank) {
    if (worker(rank).draining || !HasRoom(worker(rank), blocks, beginning)) continue;
    if (!idlest || load(rank) < load(*idlest)) idlest = rank;
  }
  if (!idlest) return std::nullopt;
  const KvLedger& least = *worker(*idlest).ledger;
  int best = *idlest, most = least.CachedTokens(beginning);
  const int known = most;
  for (int rank = 0; rank < size(); ++rank) {
    if (worker(rank).draining || !HasRoom(worker(rank), blocks, beginning)) continue;
    const KvLedger& ledger = *worker(rank).ledger;
    const int cached = ledger.CachedTokens(beginning);
    if (!WorthTheQueue(cached - known, beginning.tokens.size(), ledger.sequences(), least.sequences())) continue;
    if (cached > most) most = cached, best = rank;
  }
  return best;
}

void Group::TakeOver(int rank, std::shared_ptr<KvLedger> ledger) {
  workers_.at(static_cast<size_t>(rank)).ledger = std::move(ledger);
}

bool Group::HasRoom(const Worker& worker, uint64_t blocks, const Beginning& beginning) const {
  return worker.ledger->sequences() < worker.sequences_max && worker.ledger->HasRoom(blocks, beginning);
}

}  // namespace braid
