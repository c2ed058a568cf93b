#pragma once

#include <string>

#include "absl/status/status.h"

namespace braid {

// What a benchmark found: the table for people, and the JSON at `json_path`, if that is not empty. "-" is standard
// output, and then the table goes to standard error. kPermissionDenied, naming the file, if it cannot be written.
absl::Status WriteBenchReport(const std::string& table, const std::string& json, const std::string& json_path);

}  // namespace braid
