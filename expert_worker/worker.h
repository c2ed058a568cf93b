#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/worker_options.h"
#include "monitoring/metrics.h"

namespace braid {

class ModelFile;

// A whole expert worker: attaches to the router, runs its steps, exchanges hidden states with its peers.
class Worker {
 public:
  // Loads the weights and returns once the model is ready to run; attaching goes on in the background and is retried
  // for ever. `model` and `metrics` must outlive the worker. `stop` is asked often: once it says true, loading ends
  // early, with kCancelled if there is no running without the rest. kResourceExhausted with needed and available bytes
  // if memory is short; errors of ChooseDevice, CheckPresent (compute_device.h) and WorkerWeights (load_weights.h).
  static absl::StatusOr<std::unique_ptr<Worker>> Start(
      const ModelFile* model, const WorkerOptions& options, Metrics* metrics,
      const std::function<bool()>& stop = [] { return false; });
  virtual ~Worker() = default;

  // Empty string while in an epoch, else why not.
  virtual std::string NotReady() const = 0;
  // Says Leaving and waits for the router to let go, at most `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace braid
