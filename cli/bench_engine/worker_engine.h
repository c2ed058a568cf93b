#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cli/bench_engine/benched_engine.h"
#include "expert_worker/worker_options.h"
#include "model/model_file.h"
#include "model/sequence_states.h"

namespace braid {

// What a worker with these options computes with, its steps and logits as a worker has them, with room for `sizes`,
// whatever the options say. `model` must outlive it. Errors of MakeBackend.
absl::StatusOr<std::unique_ptr<BenchedEngine>> MakeWorkerEngine(const ModelFile* model, WorkerOptions options,
                                                                const StateSizes& sizes, const MachineLimits& limits);

}  // namespace braid
