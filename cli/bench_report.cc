#include "cli/bench_report.h"

#include <fmt/format.h>

#include <cstdio>
#include <fstream>

namespace braid {

absl::Status WriteBenchReport(const std::string& table, const std::string& json, const std::string& json_path) {
  const bool json_on_stdout = json_path == "-";
  fmt::print(json_on_stdout ? stderr : stdout, "{}", table);
  if (json_path.empty()) return absl::OkStatus();
  if (json_on_stdout) {
    fmt::print("{}", json);
    return absl::OkStatus();
  }
  std::ofstream file(json_path, std::ios::binary);
  if (!(file << json) || !file.flush()) return absl::PermissionDeniedError("cannot write " + json_path);
  return absl::OkStatus();
}

}  // namespace braid
