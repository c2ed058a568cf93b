#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/bench/machine.h"
#include "model/config.h"
#include "model/step_profile.h"
#include "model/tensors.h"

// The least time that a step can take on a machine: every weight it needs is read from memory once, each in its own
// type, and so is the context; every product runs at the peak. What an engine reads twice, or pads, is not the
// limit's. Pure.

namespace braid {

// What some work must at least do.
struct WorkCost {
  double bytes = 0;          // from memory
  double int8_ops = 0;       // of weights; a multiplication and its addition are two
  double attention_ops = 0;  // products with keys and values, in sixteen bits: half the rate of int8

  WorkCost& operator+=(const WorkCost& other);
  // Whichever is the limit, memory or arithmetic.
  double Seconds(const MachineLimits& machine) const { return std::max(ReadSeconds(machine), ComputeSeconds(machine)); }
  double ReadSeconds(const MachineLimits& machine) const { return bytes / machine.read_bytes_per_second; }
  double ComputeSeconds(const MachineLimits& machine) const {
    return (int8_ops + 2 * attention_ops) / machine.int8_ops_per_second;
  }
};

// What of a step its cost depends on.
struct StepShape {
  int rows = 0;
  int logit_rows = 0;
  double context_read = 0;     // positions that attention reads, added up over sequences
  double context_visited = 0;  // positions that attention visits, added up over rows
  double experts_touched = 0;  // distinct ones, added up over the MoE layers

  // Adds a chunk of a sequence: `new_rows` rows that begin at `position`.
  void AddChunk(int position, int new_rows);
};

// Of layers' matrices that the file has in floats: whether they are FP8, and so the rows that meet them, whose products
// then run at twice the peak.
enum class Fp8 { kNone, kWeights, kRowsToo };

using StepCost = std::array<WorkCost, kStepOps>;

// By op; those that only touch what is in the caches cost nothing. `kv_bytes_per_token`: keys and values of one
// position in all layers, as the engine keeps them.
StepCost CostOfStep(const ModelConfig& config, const ModelTensors& tensors, uint64_t kv_bytes_per_token,
                    const StepShape& shape, Fp8 fp8 = Fp8::kNone);
WorkCost Total(const StepCost& cost);

}  // namespace braid
