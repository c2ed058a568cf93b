#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/block_allocator.h"
#include "expert_worker/free_slots.h"

namespace braid {

// The prefix cache of one worker: states behind beginnings of sequences, kept and dropped as the router says, who alone
// knows which tokens they stand for (worker.proto). A snapshot shares the KV blocks of the sequence it was taken of and
// has its own copy of the conv state. Thread-compatible.
class SnapshotStore {
 public:
  struct Snapshot {
    int length = 0;               // positions [0, length) are behind it
    std::vector<int32_t> blocks;  // that hold them; empty until the step that saves it has been run
    int32_t conv_copy = -1;       // the columns before `length`: see SequenceStates::Restore
  };

  // Both must outlive *this. At most `snapshots_max` are kept, so many copies as it takes of `conv_copies`.
  SnapshotStore(BlockAllocator* blocks, FreeSlots* conv_copies, int snapshots_max);

  // A step is about to be run that saves a snapshot: which copy its conv state goes to. If the step fails, a Begin
  // will drop it. REQUIRES: CheckChunks.
  int32_t Open(const v1::SnapshotSave& save);
  // That step has been run, by a sequence with these blocks.
  void Close(const v1::SnapshotSave& save, std::span<const int32_t> blocks);

  void Drop(uint64_t id);  // nothing happens if it is unknown
  void DropAllBut(const google::protobuf::RepeatedField<uint64_t>& kept);

  // Null if unknown. Valid until it is dropped.
  const Snapshot* Find(uint64_t id) const;
  int size() const { return static_cast<int>(snapshots_.size()); }
  int snapshots_max() const { return snapshots_max_; }

 private:
  BlockAllocator* const blocks_;
  FreeSlots* const conv_copies_;
  const int snapshots_max_;
  absl::node_hash_map<uint64_t, Snapshot> snapshots_;
};

}  // namespace braid
