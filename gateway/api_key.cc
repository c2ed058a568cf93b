#include "gateway/api_key.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "base/status.h"

namespace braid {

absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path);
  std::string key;
  if (!file || !std::getline(file, key)) return absl::NotFoundError("--api-key-file: cannot read a line from " + path);
  absl::StripAsciiWhitespace(&key);
  if (key.empty()) return InvalidArgument("--api-key-file: the first line of " + path + " is empty");
  return key;
}

}  // namespace braid
