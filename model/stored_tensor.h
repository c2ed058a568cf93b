#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/panels.h"

namespace braid {

// A tensor as a container file stores it, before anyone asks what it is for. `data` points into the file and has
// exactly the bytes that type and shape call for; the reader of the container has checked that.
struct StoredTensor {
  std::string name;
  std::string type;               // as the format spells it
  std::optional<DType> dtype;     // nullopt: a type we do not compute with
  std::vector<int64_t> shape;     // outermost first, the contiguous dimension last
  Layout layout = Layout::kRows;  // of each matrix of the last two dimensions
  std::span<const std::byte> data;
};

}  // namespace braid
