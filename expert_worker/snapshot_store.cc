#include "expert_worker/snapshot_store.h"

#include "absl/container/flat_hash_set.h"
#include "base/check.h"
#include "base/planted_bug.h"
#include "model/sequence_states.h"

namespace braid {

SnapshotStore::SnapshotStore(BlockAllocator* blocks, FreeSlots* conv_copies, int snapshots_max)
    : blocks_(blocks), conv_copies_(conv_copies), snapshots_max_(snapshots_max) {}

int32_t SnapshotStore::Open(const v1::SnapshotSave& save) {
  const auto [it, is_new] = snapshots_.try_emplace(save.snapshot());
  CHECK(is_new) << "snapshot " << save.snapshot();
  Snapshot& snapshot = it->second;
  snapshot.length = static_cast<int>(save.position());
  snapshot.conv_copy = conv_copies_->Take();
  return snapshot.conv_copy;
}

void SnapshotStore::Close(const v1::SnapshotSave& save, std::span<const int32_t> blocks) {
  Snapshot& snapshot = snapshots_.at(save.snapshot());
  const std::span<const int32_t> behind = blocks.first(static_cast<size_t>(snapshot.length / kKvBlockTokens));
  snapshot.blocks.assign(behind.begin(), behind.end());
  blocks_->Share(snapshot.blocks);
}

void SnapshotStore::Drop(uint64_t id) {
  const auto it = snapshots_.find(id);
  if (it == snapshots_.end()) return;
  blocks_->Release(it->second.blocks);
  conv_copies_->Free(it->second.conv_copy);
  snapshots_.erase(it);
}

void SnapshotStore::DropAllBut(const google::protobuf::RepeatedField<uint64_t>& kept) {
  const absl::flat_hash_set<uint64_t> keep(kept.begin(), kept.end());
  std::vector<uint64_t> dropped;
  for (const auto& [id, snapshot] : snapshots_) {
    if (!keep.contains(id)) dropped.push_back(id);
  }
  for (const uint64_t id : dropped) {
    if (!Planted(Bug::kKeepsDroppedSnapshots)) Drop(id);
  }
}

const SnapshotStore::Snapshot* SnapshotStore::Find(uint64_t id) const {
  const auto it = snapshots_.find(id);
  return it == snapshots_.end() ? nullptr : &it->second;
}

}  // namespace braid
