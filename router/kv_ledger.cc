#include "router/kv_ledger.h"

#include <algorithm>

#include "base/check.h"
#include "base/planted_bug.h"

namespace braid {

void ExtendHashes(std::string_view scope, std::span<const TokenId> tokens, int block_tokens,
                  std::vector<uint64_t>* hashes) {
  const auto mix = [](uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 32);
  };
  const size_t block = static_cast<size_t>(block_tokens);
  if (hashes->empty() && tokens.size() < block) return;
  uint64_t hash = 1;
  if (!hashes->empty()) {
    hash = hashes->back();
  } else if (!Planted(Bug::kSharesAcrossScopes)) {
    for (const char c : scope) hash = mix(hash, static_cast<unsigned char>(c));
  }
  for (size_t at = hashes->size() * block; at + block <= tokens.size(); at += block) {
    for (size_t i = 0; i < block; ++i) hash = mix(hash, static_cast<uint32_t>(tokens[at + i]));
    hashes->push_back(hash);
  }
}

KvLedger::KvLedger(uint64_t blocks_total, int block_tokens, int snapshots_max)
    : blocks_total_(blocks_total), block_tokens_(block_tokens), snapshots_max_(snapshots_max) {
  CHECK_GE(block_tokens, 1);
}

// Leases keep their ledger, so nobody but snapshots holds segments now.
KvLedger::~KvLedger() {
  while (!snapshots_.empty()) Erase(snapshots_.begin());
  CHECK_EQ(held_, 0u);
}

int KvLedger::CachedTokens(const Beginning& beginning) const {
  const auto found = FindLongest(beginning);
  return found == snapshots_.end() ? 0 : found->segment->end;
}

bool KvLedger::HasRoom(uint64_t blocks, const Beginning& beginning) const {
  uint64_t more = blocks;
  if (const auto found = FindLongest(beginning); found != snapshots_.end()) {
    // What other sequences hold anyway.
    for (const Segment* s = found->segment; s != nullptr; s = s->parent) more -= s->sequences > 0 ? BlocksOf(*s) : 0;
  }
  return more <= blocks_total_ - used_;
}

KvLease KvLedger::Reserve(uint64_t blocks, const Beginning& beginning) {
  CHECK(HasRoom(blocks, beginning));
  KvLease lease;
  lease.ledger_ = shared_from_this();
  ++leases_;
  uint64_t shared = 0;
  if (const auto found = FindLongest(beginning); found != snapshots_.end()) {
    snapshots_.splice(snapshots_.begin(), snapshots_, found);
    found->used = true;
    ++found->pins;
    lease.pinned_ = true;
    lease.resume_ = found->id;
    lease.chain_ = found->segment;
    lease.resumed_tokens_ = found->segment->end;
    ++found->segment->holders;
    for (Segment* s = found->segment; s != nullptr; s = s->parent) {
      if (s->sequences++ == 0) used_ += BlocksOf(*s);
      shared += BlocksOf(*s);
    }
  }
  CHECK_GE(blocks, shared);
  lease.own_ = blocks - shared;
  MakeRoom(lease.own_);
  held_ += lease.own_;
  used_ += lease.own_;
  return lease;
}

std::optional<SnapshotId> KvLedger::Save(KvLease& lease, const Beginning& beginning, Place place) {
  if (snapshots_max_ == 0) return std::nullopt;
  const int end = static_cast<int>(beginning.tokens.size());
  // Of a step that was void there may be segments left.
  Segment* segment = lease.chain_;
  while (segment != nullptr && segment->end > end) segment = segment->parent;
  const bool is_new = segment == nullptr || segment->end < end;
  if (is_new && segment != lease.chain_) return std::nullopt;  // in the midst of one
  if (const auto there = by_hash_.find(beginning.hashes.back()); there != by_hash_.end()) {
    snapshots_.splice(snapshots_.begin(), snapshots_, there->second);  // it is wanted, so it seems
    return std::nullopt;
  }
  if (!MakePlace()) return std::nullopt;
  if (is_new) segment = Extend(lease, beginning);
  ++segment->holders;
  const SnapshotId id(++last_id_);
  snapshots_.push_front(
      {.id = id, .segment = segment, .hash = beginning.hashes.back(), .place = place, .instead_of = {}});
  by_hash_[beginning.hashes.back()] = snapshots_.begin();
  by_id_[id] = snapshots_.begin();
  saving_.push_back(id);
  if (place == Place::kInAnswer) snapshots_.front().instead_of = std::exchange(lease.in_answer_, id);
  return id;
}

// Makes blocks of the lease's own a segment. It is held by the lease, and holds the one before in the lease's place.
KvLedger::Segment* KvLedger::Extend(KvLease& lease, const Beginning& beginning) {
  Segment* const before = lease.chain_;
  auto* const segment = new Segment{.parent = before, .holders = 1, .sequences = 1};
  if (before == nullptr) segment->scope = beginning.scope;
  const auto tokens = beginning.tokens.subspan(before != nullptr ? static_cast<size_t>(before->end) : 0);
  segment->tokens.assign(tokens.begin(), tokens.end());
  segment->end = static_cast<int>(beginning.tokens.size());
  CHECK_GE(lease.own_, BlocksOf(*segment));
  lease.own_ -= BlocksOf(*segment);
  return lease.chain_ = segment;
}

void KvLedger::CommitSaves() {
  for (const SnapshotId id : std::exchange(saving_, {})) {
    const auto found = by_id_.find(id);
    if (found == by_id_.end()) continue;  // dropped since, to make room
    found->second->saved = true;
    const auto before = by_id_.find(found->second->instead_of);
    if (before != by_id_.end() && !before->second->used) Drop(before->second);
  }
}

void KvLedger::VoidSaves() {
  if (Planted(Bug::kKeepsSnapshotsOfVoidStep)) return CommitSaves();
  for (const SnapshotId id : std::exchange(saving_, {})) {
    const auto found = by_id_.find(id);
    if (found != by_id_.end()) Erase(found->second);
  }
}

std::vector<SnapshotId> KvLedger::Snapshots() const {
  CHECK(saving_.empty());
  std::vector<SnapshotId> ids;
  for (const Snapshot& snapshot : snapshots_) ids.push_back(snapshot.id);
  return ids;
}

bool KvLedger::Holds(const Segment& segment, const Beginning& beginning) const {
  if (segment.end != static_cast<int>(beginning.tokens.size())) return false;
  const Segment* s = &segment;
  for (;; s = s->parent) {
    const auto tokens = beginning.tokens.subspan(static_cast<size_t>(s->end) - s->tokens.size(), s->tokens.size());
    if (!std::equal(tokens.begin(), tokens.end(), s->tokens.begin())) return false;
    if (s->parent == nullptr) return s->scope == beginning.scope || Planted(Bug::kSharesAcrossScopes);
  }
}

KvLedger::SnapshotList::iterator KvLedger::FindLongest(const Beginning& beginning) const {
  for (size_t blocks = beginning.hashes.size(); blocks > 0; --blocks) {
    const auto found = by_hash_.find(beginning.hashes[blocks - 1]);
    if (found == by_hash_.end() || !found->second->saved) continue;
    if (Holds(*found->second->segment, beginning.First(blocks, block_tokens_))) return found->second;
  }
  return snapshots_.end();
}

// There is enough: what no sequence holds ends in snapshots, and one at the end of a chain gives its blocks back.
void KvLedger::MakeRoom(uint64_t blocks) {
  while (blocks_total_ - held_ < blocks) {
    const auto last = std::find_if(snapshots_.rbegin(), snapshots_.rend(), [](const Snapshot& snapshot) {
      return snapshot.segment->holders == 1 || (Planted(Bug::kEvictsPinnedSnapshots) && snapshot.pins > 0);
    });
    CHECK(last != snapshots_.rend());
    Drop(std::prev(last.base()));
  }
}

// False if all that are there must stay: the step that saves them is being planned, or somebody is to begin with them.
// One inside of a prompt that nobody has used for a while goes before the ends of prompts: there are many of them, and
// few are where prompts part.
bool KvLedger::MakePlace() {
  if (snapshots() < snapshots_max_) return true;
  const auto may_go = [](const Snapshot& snapshot) { return snapshot.saved && snapshot.pins == 0; };
  const auto half = std::next(snapshots_.rbegin(), snapshots() / 2);
  auto last = std::find_if(snapshots_.rbegin(), half, [&](const Snapshot& snapshot) {
    return may_go(snapshot) && snapshot.place == Place::kOnTheWay && !snapshot.used;
  });
  if (last == half) last = std::find_if(snapshots_.rbegin(), snapshots_.rend(), may_go);
  if (last == snapshots_.rend()) return false;
  Drop(std::prev(last.base()));
  return true;
}

void KvLedger::Drop(SnapshotList::iterator snapshot) {
  dropped_.push_back(snapshot->id);
  Erase(snapshot);
}

void KvLedger::Erase(SnapshotList::iterator snapshot) {
  Segment* const segment = snapshot->segment;
  by_hash_.erase(snapshot->hash);
  by_id_.erase(snapshot->id);
  snapshots_.erase(snapshot);
  LetGo(segment);
}

void KvLedger::LetGo(Segment* segment) {
  while (segment != nullptr && --segment->holders == 0) {
    CHECK_EQ(segment->sequences, 0);
    held_ -= BlocksOf(*segment);
    delete std::exchange(segment, segment->parent);
  }
}

void KvLedger::Release(KvLease& lease) {
  Unpin(lease);
  --leases_;
  held_ -= lease.own_;
  used_ -= lease.own_;
  for (Segment* s = lease.chain_; s != nullptr; s = s->parent) {
    if (--s->sequences == 0) used_ -= BlocksOf(*s);
  }
  LetGo(lease.chain_);
}

void KvLedger::Unpin(KvLease& lease) {
  if (!std::exchange(lease.pinned_, false)) return;
  const auto found = by_id_.find(lease.resume_);
  if (found != by_id_.end()) --found->second->pins;
}

KvLease& KvLease::operator=(KvLease&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  ledger_ = std::exchange(other.ledger_, nullptr);
  chain_ = std::exchange(other.chain_, nullptr);
  own_ = std::exchange(other.own_, 0);
  resume_ = std::exchange(other.resume_, {});
  resumed_tokens_ = std::exchange(other.resumed_tokens_, 0);
  pinned_ = std::exchange(other.pinned_, false);
  in_answer_ = std::exchange(other.in_answer_, {});
  return *this;
}

void KvLease::Reset() {
  if (ledger_ == nullptr) return;
  ledger_->Release(*this);
  ledger_ = nullptr;
  chain_ = nullptr;
  own_ = 0;
  resume_ = in_answer_ = {};
  resumed_tokens_ = 0;
}

uint64_t KvLease::blocks() const {
  uint64_t blocks = own_;
  for (const KvLedger::Segment* s = chain_; s != nullptr; s = s->parent) blocks += ledger_->BlocksOf(*s);
  return blocks;
}

void KvLease::OnStarted() {
  if (ledger_ != nullptr) ledger_->Unpin(*this);
}

}  // namespace braid
