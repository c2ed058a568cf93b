#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace braid {

// The parts of a step, in the order in which a layer comes to them. An engine has either kFfn and kExperts, as the
// CPU's has, or the ops that they consist of.
enum class StepOp : uint8_t {
  kEmbed,
  kNorm,
  kConvIn,
  kConv,
  kConvOut,
  kQkv,
  kRope,
  kAttention,
  kAttnOut,
  kFfn,  // of dense layers
  kFfnIn,
  kSwiGlu,  // where it is not part of kFfnIn
  kFfnOut,
  kRouter,
  kChoose,
  kGroup,
  kExperts,
  kExpertsIn,
  kExpertsOut,
  kExchange,
  kCombine,
  kHead,
  kDraw,
};
inline constexpr int kStepOps = static_cast<int>(StepOp::kDraw) + 1;
std::string_view Name(StepOp op);

// Where the time of steps goes: like a stopwatch with laps, so that what lies between two ops counts for the second
// one. One look at the clock per op, and one branch where nobody profiles. For the thread that runs the step.
class StepProfile {
 public:
  struct Op {
    uint64_t laps = 0;
    std::chrono::nanoseconds time{0};
  };

  void BeginStep() { last_ = Clock::now(); }
  // All since the last lap, or since the beginning, was `op`.
  void Lap(StepOp op) {
    const Clock::time_point now = Clock::now();
    Add(op, now - last_);
    last_ = now;
  }
  void Add(StepOp op, std::chrono::nanoseconds time) {
    Op& total = ops_[static_cast<size_t>(op)];
    ++total.laps;
    total.time += time;
  }
  // Over all steps.
  const Op& operator[](StepOp op) const { return ops_[static_cast<size_t>(op)]; }

 private:
  using Clock = std::chrono::steady_clock;

  std::array<Op, kStepOps> ops_;
  Clock::time_point last_;
};

}  // namespace braid
