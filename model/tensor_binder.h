#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/stored_tensor.h"
#include "model/tensor_names.h"
#include "model/tensors.h"

namespace braid {

// Finds every tensor the configuration calls for among those of a file, and checks its shape and type. A missing
// tensor, a wrong one, and one that the model has no use for (a bias, a second modality) are kInvalidArgument with
// name, expected and actual shape. The head is the embedding if the file has none of its own. REQUIRES:
// config.Validate() is OK.
absl::StatusOr<ModelTensors> BindTensors(const ModelConfig& config, const TensorNames& names,
                                         const std::vector<StoredTensor>& stored);

}  // namespace braid
