#include "tests/cuda_emulator/schedule.h"

#include <bit>
#include <utility>

namespace simt {

// SplitMix64: any seed is as good as another.
uint64_t Random::Next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

Policy PolicyOf(uint64_t seed) {
  if (seed == 0) return Policy::kAscending;
  if (seed == 1) return Policy::kDescending;
  return seed % 2 == 0 ? Policy::kRandom : Policy::kPriority;
}

void Schedule::Start(uint64_t seed, uint64_t block, int warps) {
  policy_ = PolicyOf(seed);
  random_ = Random(seed * 0x10001 + block);
  warps_ = warps;
  for (int i = 0; i < 32; ++i) {
    ready_[i] = 0;
    warp_order_[i] = rank_of_lane_[i] = lane_of_rank_[i] = static_cast<uint8_t>(i);
  }
  if (policy_ != Policy::kPriority) return;
  for (int i = warps - 1; i > 0; --i) std::swap(warp_order_[i], warp_order_[random_.Below(i + 1)]);
  for (int i = 31; i > 0; --i) std::swap(lane_of_rank_[i], lane_of_rank_[random_.Below(i + 1)]);
  for (int i = 0; i < 32; ++i) rank_of_lane_[lane_of_rank_[i]] = static_cast<uint8_t>(i);
  // From a change in every warp operation to hardly any in a block.
  steps_between_changes_ = 16 << random_.Below(8);
}

int Schedule::Next(int current) {
  switch (policy_) {
    case Policy::kAscending:
      return NextAscending(current);
    case Policy::kDescending:
      return NextDescending(current);
    case Policy::kRandom:
      return NextRandom();
    default:
      return NextByPriority();
  }
}

// The first after `current`, round and round.
int Schedule::NextAscending(int current) const {
  const int start = current < 0 ? 0 : current / 32;
  for (int i = 0; i <= warps_; ++i) {
    const int warp = (start + i) % warps_;
    uint32_t ready = ready_[warp];
    if (i == 0 && current >= 0) ready &= ~(0xFFFFFFFFu >> (31 - current % 32));
    if (ready != 0) return warp * 32 + std::countr_zero(ready);
  }
  return -1;
}

int Schedule::NextDescending(int current) const {
  const int start = current < 0 ? warps_ - 1 : current / 32;
  for (int i = 0; i <= warps_; ++i) {
    const int warp = (start - i + 2 * warps_) % warps_;
    uint32_t ready = ready_[warp];
    if (i == 0 && current >= 0) ready &= (1u << current % 32) - 1;
    if (ready != 0) return warp * 32 + 31 - std::countl_zero(ready);
  }
  return -1;
}

int Schedule::NextRandom() {
  int count = 0;
  for (int warp = 0; warp < warps_; ++warp) count += std::popcount(ready_[warp]);
  if (count == 0) return -1;
  int skip = random_.Below(count);
  for (int warp = 0; warp < warps_; ++warp) {
    uint32_t ready = ready_[warp];
    if (skip >= std::popcount(ready)) {
      skip -= std::popcount(ready);
      continue;
    }
    for (; skip > 0; --skip) ready &= ready - 1;
    return warp * 32 + std::countr_zero(ready);
  }
  return -1;
}

int Schedule::NextByPriority() {
  int place = 0;
  while (place < warps_ && ready_[warp_order_[place]] == 0) ++place;
  if (place == warps_) return -1;
  const int warp = warp_order_[place];
  const int thread = ThreadOf(warp, std::countr_zero(ready_[warp]));
  if (random_.OneIn(steps_between_changes_)) {  // from now on this warp is the last
    for (int i = place; i + 1 < warps_; ++i) warp_order_[i] = warp_order_[i + 1];
    warp_order_[warps_ - 1] = static_cast<uint8_t>(warp);
  }
  return thread;
}

}  // namespace simt
