#pragma once

#include <functional>
#include <span>

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

// The same for the experts that are placed at `rank`, by MoE layer, and without a progress bar. Costs little for those
// that are in memory already.
absl::Status LoadExperts(const ModelFile& model, std::span<const ExpertRanks> placement, int rank,
                         const std::function<bool()>& stop);

}  // namespace braid
