#pragma once

#include <compare>
#include <cstdint>
#include <ostream>
#include <utility>

// Ids are types, not ints: a WorkerId never becomes an ExpertId by accident.

namespace braid {

template <typename Tag, typename Rep>
struct Id {
  Rep value{};

  constexpr Id() = default;
  constexpr explicit Id(Rep v) : value(v) {}
  friend constexpr auto operator<=>(Id, Id) = default;
  template <typename H>
  friend H AbslHashValue(H h, Id id) {
    return H::combine(std::move(h), id.value);
  }
  friend std::ostream& operator<<(std::ostream& out, Id id) { return out << +id.value; }
};

using SequenceId = Id<struct SequenceTag, uint64_t>;  // unique for the life of a router
using WorkerId = Id<struct WorkerTag, uint32_t>;  // a worker's rank for the life of an epoch is another thing: int rank
using SnapshotId = Id<struct SnapshotTag, uint64_t>;  // of a worker's, while its stream stands; 0: none
using Epoch = Id<struct EpochTag, uint64_t>;      // membership and placement of a group; only rises

using TokenId = int32_t;

}  // namespace braid
