#include "router/placement.h"

#include "base/check.h"

namespace braid {

std::vector<uint32_t> PlaceExperts(uint32_t experts, uint32_t ranks) {
  CHECK_GE(ranks, 1u);
  std::vector<uint32_t> rank_of(experts);
  for (uint64_t e = 0; e < experts; ++e) rank_of[e] = static_cast<uint32_t>(e * ranks / experts);
  return rank_of;
}

}  // namespace braid
