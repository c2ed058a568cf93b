#include "base/status.h"

namespace braid {

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), AbslView(std::string(context) + ": " + std::string(StdView(status.message()))));
}

}  // namespace braid
