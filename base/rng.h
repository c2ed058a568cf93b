#pragma once

#include <array>
#include <cstdint>

// Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// A draw is a pure function of its key and counter, so sampling has no state to lose, copy or replay.

namespace braid {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1) with 53 bits, for one token: `seed` of the request, `choice` among its n, `position` in the
// sequence.
double UniformAt(uint64_t seed, uint32_t choice, uint64_t position);

}  // namespace braid
