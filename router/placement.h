#pragma once

#include <cstdint>
#include <vector>

namespace braid {

// Which rank computes expert e of every layer: result[e] in [0, ranks). Each rank gets a contiguous run of experts, the
// runs differ by at most one, and the same arguments give the same placement. Empty for a dense model (experts == 0).
// REQUIRES: ranks >= 1.
std::vector<uint32_t> PlaceExperts(uint32_t experts, uint32_t ranks);

}  // namespace braid
