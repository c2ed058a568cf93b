#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// JSON from hostile files: no exceptions, no duplicate keys (two readers would see two models), bounded depth and size.

namespace braid {

inline constexpr int kJsonDepthMax = 64;
inline constexpr int64_t kJsonValuesMax = 8'000'000;  // a tokenizer of 128,000 tokens has 0.7 million

// kInvalidArgument, naming the byte or the key.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text);

// Members of an object. nullopt if absent or null; kInvalidArgument, naming the key, if of another kind or out of
// range. REQUIRES: object.is_object().
absl::StatusOr<std::optional<int64_t>> JsonInteger(const nlohmann::json& object, const char* key, int64_t min,
                                                   int64_t max);
absl::StatusOr<std::optional<double>> JsonNumber(const nlohmann::json& object, const char* key);
absl::StatusOr<std::optional<bool>> JsonBool(const nlohmann::json& object, const char* key);
absl::StatusOr<std::optional<std::string>> JsonString(const nlohmann::json& object, const char* key);
// The member itself, or nullptr if it is absent or null.
const nlohmann::json* JsonMember(const nlohmann::json& object, const char* key);
// nullptr if absent or null; kInvalidArgument if it is no object.
absl::StatusOr<const nlohmann::json*> JsonObject(const nlohmann::json& object, const char* key);

}  // namespace braid
