#pragma once

#include <memory>

#include "cli/bench_engine/benched_engine.h"
#include "cli/bench_engine/points.h"
#include "model/config.h"
#include "model/sequence_states.h"
#include "model/tensors.h"

namespace braid {

// That of this machine's processor. All must outlive it.
std::unique_ptr<BenchedEngine> MakeHostEngine(const ModelConfig* config, const ModelTensors* tensors,
                                              const EngineBenchOptions* options, const StateSizes& sizes);

}  // namespace braid
