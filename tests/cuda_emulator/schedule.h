#pragma once

#include <array>
#include <cstdint>

// Which of a block's threads goes on when the running one has to wait. See SetSeed in simt.h.

namespace simt {

// Of a seed, the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}
  uint64_t Next();
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint64_t>(n)); }
  bool OneIn(int n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

enum class Policy { kAscending, kDescending, kRandom, kPriority };
Policy PolicyOf(uint64_t seed);

class Schedule {
 public:
  static constexpr int kWarpsMax = 32;

  // A block's start: nobody is ready.
  void Start(uint64_t seed, uint64_t block, int warps);
  void SetReady(int thread) { ready_[thread / 32] |= Bit(thread); }
  void SetWaiting(int thread) { ready_[thread / 32] &= ~Bit(thread); }
  // -1: nobody is ready.
  int Next(int current);
  // Whether a thread that could go on lets others go first.
  bool Preempts() { return policy_ >= Policy::kRandom && random_.OneIn(4); }
  bool OneIn(int n) { return random_.OneIn(n); }

 private:
  // A lane's bit in its warp's word is its rank within the warp: lower ones go first.
  uint32_t Bit(int thread) const { return 1u << rank_of_lane_[thread % 32]; }
  int ThreadOf(int warp, int rank) const { return warp * 32 + lane_of_rank_[rank]; }
  int NextAscending(int current) const;
  int NextDescending(int current) const;
  int NextRandom();
  int NextByPriority();

  Policy policy_ = Policy::kAscending;
  Random random_;
  int warps_ = 0;
  int steps_between_changes_ = 0;                // on average
  std::array<uint32_t, kWarpsMax> ready_{};      // by warp
  std::array<uint8_t, kWarpsMax> warp_order_{};  // highest priority first
  std::array<uint8_t, 32> rank_of_lane_{}, lane_of_rank_{};
};

}  // namespace simt
