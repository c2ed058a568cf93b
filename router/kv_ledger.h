#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace braid {

// What a sequence looks for in a cache: its tokens from the first one on, in whole blocks.
struct Beginning {
  std::string_view scope;            // found by those of the same scope alone
  std::span<const TokenId> tokens;   // of `hashes.size()` blocks
  std::span<const uint64_t> hashes;  // entry i is of the first i + 1 blocks and of the scope
  Beginning First(size_t blocks, int block_tokens) const {
    return {scope, tokens.first(blocks * static_cast<size_t>(block_tokens)), hashes.first(blocks)};
  }
};

// Makes `hashes` those of all whole blocks of `tokens`; what is there is taken to be of the same beginning.
void ExtendHashes(std::string_view scope, std::span<const TokenId> tokens, int block_tokens,
                  std::vector<uint64_t>* hashes);

class KvLease;

// The KV memory of one worker, in the router's books: which blocks sequences hold, and which hold snapshots that other
// sequences can begin with (worker.proto). The worker does as it is told and counts the same way, so it never has to
// refuse anything. One ledger lives as long as the worker's stream, over all epochs that it serves in.
//
// Blocks that are shared are kept in segments: a segment is a run of whole blocks behind its parent's. A sequence holds
// the chain of segments that it resumed from, or that snapshots of it were saved of, and behind them blocks of its own:
//
//     segments   [ 0 .. 256 )-[ 256 .. 480 )-[ 480 .. 736 )      snapshots at 256, 480, 736
//                          \ [ 256 .. 288 )                      a snapshot at 288, of another sequence
//     sequence    -------------------------> own own own         resumed at 480, or computed all of it
//
// Blocks that no sequence holds are free in the eyes of whoever looks for room: snapshots go when they are needed, the
// least recently used first of those that give something back, which are the ends of chains.
//
// What is found is compared token by token and scope by scope, so that a hash that collides costs time, never a bit.
//
// Pure and thread-compatible.
class KvLedger : public std::enable_shared_from_this<KvLedger> {
 public:
  // `snapshots_max`: that the worker keeps; 0: it keeps none.
  KvLedger(uint64_t blocks_total, int block_tokens, int snapshots_max);
  ~KvLedger();

  // How many tokens of it the longest snapshot has that it can begin with; 0: there is none.
  int CachedTokens(const Beginning& beginning) const;
  // Whether `blocks` could be had now for a sequence that begins so.
  bool HasRoom(uint64_t blocks, const Beginning& beginning) const;
  // Takes the longest snapshot, and blocks behind it; others may be dropped for them. REQUIRES: HasRoom.
  KvLease Reserve(uint64_t blocks, const Beginning& beginning);

  // Where a snapshot is of its sequence.
  enum class Place {
    kOnTheWay,     // inside of a prompt: good for those that part behind it, if there are any
    kEndOfPrompt,  // for the next turn, and for the same prompt again
    kInAnswer,     // for a turn that goes on behind the answer; takes the place of the one before, if nobody used that
  };
  // The step that is being planned is to save this beginning of the sequence with this lease: the snapshot's id, or
  // nullopt if it is there already or there is no place for it.
  // REQUIRES: the sequence is `beginning` and more. What is saved in one step comes in ascending order.
  std::optional<SnapshotId> Save(KvLease& lease, const Beginning& beginning, Place place);
  // That step is committed: what it saves can be found.
  void CommitSaves();
  // It never happened.
  void VoidSaves();

  // What the worker is to drop, with its next plan.
  std::vector<SnapshotId> TakeDropped() { return std::exchange(dropped_, {}); }
  // What it has, once the steps that were planned are committed or void. REQUIRES: so they are.
  std::vector<SnapshotId> Snapshots() const;

  uint64_t blocks_total() const { return blocks_total_; }
  uint64_t blocks_used() const { return used_; }            // held by sequences
  uint64_t blocks_cached() const { return held_ - used_; }  // held by snapshots alone
  int snapshots() const { return static_cast<int>(snapshots_.size()); }
  int sequences() const { return leases_; }

 private:
  friend class KvLease;
  struct Segment {
    Segment* parent = nullptr;
    std::string scope = {};  // of a chain, at its root
    std::vector<TokenId> tokens = {};
    int end = 0;        // positions with all that is before
    int holders = 0;    // segments behind it, its snapshot, and leases that end with it
    int sequences = 0;  // leases that have it in their chain
  };
  struct Snapshot {
    SnapshotId id;
    Segment* segment = nullptr;
    uint64_t hash = 0;
    Place place = Place::kOnTheWay;
    bool saved = false;     // the step is committed
    bool used = false;      // somebody began with it
    int pins = 0;           // sequences that are to begin with it, and the worker may not know yet
    SnapshotId instead_of;  // to be dropped when this one is saved
  };
  using SnapshotList = std::list<Snapshot>;

  uint64_t BlocksOf(const Segment& segment) const { return segment.tokens.size() / static_cast<size_t>(block_tokens_); }
  // The snapshot of just this beginning, saved or not.
  SnapshotList::iterator FindExactly(const Beginning& beginning) const;
  bool Holds(const Segment& segment, const Beginning& beginning) const;
  SnapshotList::iterator FindLongest(const Beginning& beginning) const;
  Segment* Extend(KvLease& lease, const Beginning& beginning);
  void MakeRoom(uint64_t blocks);
  bool MakePlace();
  void Drop(SnapshotList::iterator snapshot);
  void Erase(SnapshotList::iterator snapshot);
  void LetGo(Segment* segment);
  void Release(KvLease& lease);
  void Unpin(KvLease& lease);

  const uint64_t blocks_total_;
  const int block_tokens_;
  const int snapshots_max_;
  uint64_t held_ = 0, used_ = 0;
  int leases_ = 0;
  uint64_t last_id_ = 0;
  mutable SnapshotList snapshots_;  // the most recently used first
  absl::flat_hash_map<uint64_t, SnapshotList::iterator> by_hash_;
  absl::flat_hash_map<SnapshotId, SnapshotList::iterator> by_id_;
  std::vector<SnapshotId> saving_;
  std::vector<SnapshotId> dropped_;
};

// The blocks of one sequence; given back when it is destroyed. It keeps the ledger: sequences outlive groups and the
// workers they ran on.
class KvLease {
 public:
  KvLease() = default;
  KvLease(KvLease&& other) noexcept { *this = std::move(other); }
  KvLease& operator=(KvLease&& other) noexcept;
  ~KvLease() { Reset(); }
  void Reset();

  explicit operator bool() const { return ledger_ != nullptr; }
  uint64_t blocks() const;  // shared ones included
  // What it begins with: a snapshot and its length; 0: with nothing.
  SnapshotId resume() const { return resume_; }
  int resumed_tokens() const { return resumed_tokens_; }
  // The worker has begun with the snapshot: it may be dropped from now on.
  void OnStarted();
  KvLedger* ledger() const { return ledger_.get(); }

 private:
  friend class KvLedger;
  std::shared_ptr<KvLedger> ledger_;
  KvLedger::Segment* chain_ = nullptr;  // its end; nullptr: it shares nothing
  uint64_t own_ = 0;                    // blocks behind it
  SnapshotId resume_;
  int resumed_tokens_ = 0;
  bool pinned_ = false;
  SnapshotId in_answer_;  // the last that was saved of its answer
};

}  // namespace braid
