#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/bench/machine.h"
#include "model/chunk.h"
#include "model/step_profile.h"

namespace braid {

// What all of a context's bytes are: small and positive whether read as floats of 32 or 16 bits or as bytes.
inline constexpr uint8_t kContextByte = 0x3c;

// An engine to be measured, with room for all steps that are, and what it is compared with. Their sequences have blocks
// and conv slots from the first ones on, and as many tokens behind them as one likes: what these are does not matter.
class BenchedEngine {
 public:
  virtual ~BenchedEngine() = default;

  // A step, with the logits that its chunks ask for.
  virtual absl::Status Run(std::span<const Chunk> chunks) = 0;
  // As Engine::Profile, and whether steps take as long without it.
  virtual void Profile(StepProfile* profile) = 0;
  virtual bool profiles_freely() const = 0;
  // As those of Engine.
  virtual void UseGraphs(bool use) {}
  virtual int graph_launches() const { return 0; }
  // Distinct experts that rows of the last step went to, added up over MoE layers.
  virtual int64_t ExpertsTouched() = 0;

  // What the machine can do at most, at this moment, and what it multiplies with.
  virtual MachineLimits Measure() = 0;
  virtual std::string_view multiplies_with() const = 0;
  // Beyond weights, keys and values, so far; 0: unknown.
  virtual uint64_t MemoryBytesBeyond() const = 0;
};

}  // namespace braid
