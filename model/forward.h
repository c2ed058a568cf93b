#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"
#include "model/chunk.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/host_states.h"
#include "model/step_profile.h"
#include "model/tensors.h"

namespace braid {

// The LFM2 / LFM2-MoE forward pass over the kernels' ops, in float32 with the weights in their own precision.
// The first half of that family's Engine (model/engine.h), whose promises it keeps; the experts are the other half.
class Forward {
 public:
  // All must outlive *this. The configuration has been validated against the tensors.
  Forward(const ModelConfig* config, const ModelTensors* tensors, HostStates* states, ThreadPool* pool);
  ~Forward();

  // Engine::Run.
  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits);
  // Engine::Logits.
  absl::Status Logits(int begin, int end, std::vector<float>* logits);
  // Engine::Profile.
  void Profile(StepProfile* profile);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace braid
