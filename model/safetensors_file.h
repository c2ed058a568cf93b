#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "model/stored_tensor.h"

namespace braid {

// The tensors of a safetensors file, in the order of their data. Views into `bytes`.
// Strict, as the format's reference reader: the header is at most 100 MB and valid JSON without duplicate keys, every
// size is what type and shape say, and the tensors cover the data exactly, without overlap or hole. Beyond it, tensors
// without elements are refused. kInvalidArgument, naming the tensor.
absl::StatusOr<std::vector<StoredTensor>> ParseSafetensors(std::span<const std::byte> bytes);

}  // namespace braid
