#pragma once

#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "expert_worker/expert_ranks.h"
#include "model/model_file.h"

namespace braid {

// Brings the weights of a mapped model into memory, so that the first request does not wait for the disk page by page.
// Without it everything works, too: pages come when they are touched. A model that is larger than the memory at hand is
// therefore left where it is, and the log says so. Shows a progress bar on a terminal.
//
// `stop` is asked every few megabytes; once it says true the rest is left on disk. kUnavailable, naming the tensor, if
// the disk cannot read it: better now than as a SIGBUS later.
enum class WeightsToLoad { kAll, kAllButExperts };
absl::Status LoadWeights(const ModelFile& model, const std::function<bool()>& stop,
                         WeightsToLoad what = WeightsToLoad::kAll);

// The same for experts, when they are placed at this worker, and without a progress bar. Thread-compatible.
class ExpertLoader {
 public:
  explicit ExpertLoader(const ModelFile* model) : model_(model) {}  // must outlive *this

  // `placement` by MoE layer. Experts that the last call has read in are not read again: to look at every page of a
  // large model takes longer than all the rest of a new epoch.
  absl::Status Load(std::span<const ExpertRanks> placement, int rank, const std::function<bool()>& stop);

 private:
  const ModelFile* model_;
  std::vector<bool> here_;  // (moe_layers, E)
};

}  // namespace braid
