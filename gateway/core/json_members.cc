#include "gateway/core/json_members.h"

#include <nlohmann/json.hpp>

namespace braid {

bool JsonMembers::Add(std::string name, std::string json) {
  if (!index_.try_emplace(name, members_.size()).second) return false;
  members_.emplace_back(std::move(name), std::move(json));
  return true;
}

void JsonMembers::Set(std::string name, std::string json) {
  auto [entry, is_new] = index_.try_emplace(name, members_.size());
  if (is_new) {
    members_.emplace_back(std::move(name), std::move(json));
  } else {
    members_[entry->second].second = std::move(json);
  }
}

const std::string* JsonMembers::Find(const std::string& name) const {
  auto entry = index_.find(name);
  return entry == index_.end() ? nullptr : &members_[entry->second].second;
}

std::string JsonMembers::ToJson() const {
  std::string json = "{";
  for (const auto& [name, value] : members_) {
    if (json.size() > 1) json += ", ";
    json += ToJsonString(name);
    json += ": ";
    json += value;
  }
  return json + "}";
}

std::string ToJsonString(std::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace braid
