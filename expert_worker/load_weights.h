#pragma once

#include <functional>

#include "absl/status/status.h"
#include "model/model_file.h"

namespace braid {

// Brings the weights of a mapped model into memory, so that the first request does not wait for the disk page by page.
// Without it everything works, too: pages come when they are touched. A model that is larger than the memory at hand is
// therefore left where it is, and the log says so. Shows a progress bar on a terminal.
//
// `stop` is asked every few megabytes; once it says true the rest is left on disk. kUnavailable, naming the tensor, if
// the disk cannot read it: better now than as a SIGBUS later.
absl::Status LoadWeights(const ModelFile& model, const std::function<bool()>& stop);

}  // namespace braid
