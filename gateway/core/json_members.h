#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace braid {

// The members of an object under construction: names to JSON texts, in order of first appearance.
class JsonMembers {
 public:
  // False, and nothing changes, if there is a member of that name.
  bool Add(std::string name, std::string json);
  void Set(std::string name, std::string json);  // the last one counts
  const std::string* Find(const std::string& name) const;
  const std::vector<std::pair<std::string, std::string>>& all() const { return members_; }
  std::string ToJson() const;

 private:
  std::vector<std::pair<std::string, std::string>> members_;
  absl::flat_hash_map<std::string, size_t> index_;
};

// Text as a JSON string, with its quotes; invalid UTF-8 becomes U+FFFD.
std::string ToJsonString(std::string_view text);

}  // namespace braid
