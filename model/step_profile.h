#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace braid {

// The parts of a step, in the order in which a layer comes to them.
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
  kRouter,
  kExperts,
  kHead,
};
inline constexpr int kStepOps = static_cast<int>(StepOp::kHead) + 1;
std::string_view Name(StepOp op);

// Where the time of steps goes. Two looks at the clock per op, and one branch where nobody profiles. Not thread-safe:
// for the thread that runs the step.
class StepProfile {
 public:
  struct Op {
    uint64_t calls = 0;
    std::chrono::nanoseconds time{0};
  };

  // Counts what happens until the end of the scope. Nothing if `profile` is null.
  class Scope {
   public:
    Scope(StepProfile* profile, StepOp op) : profile_(profile), op_(op) {
      if (profile_ != nullptr) start_ = std::chrono::steady_clock::now();
    }
    ~Scope() {
      if (profile_ != nullptr) profile_->Add(op_, std::chrono::steady_clock::now() - start_);
    }
    Scope(const Scope&) = delete;

   private:
    StepProfile* const profile_;
    const StepOp op_;
    std::chrono::steady_clock::time_point start_;
  };

  void Add(StepOp op, std::chrono::nanoseconds time);
  const Op& operator[](StepOp op) const { return ops_[static_cast<size_t>(op)]; }
  void Clear() { ops_ = {}; }

 private:
  std::array<Op, kStepOps> ops_;
};

}  // namespace braid
