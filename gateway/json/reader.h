#pragma once

#include <nlohmann/json.hpp>
#include <string_view>
#include <variant>

#include "gateway/api_error.h"

namespace braid {

using Json = nlohmann::ordered_json;  // keeps the order of keys: tools reach the chat template as the client wrote them

// Deep enough for every tool schema met so far; what walks the result may recurse.
inline constexpr int kJsonDepthMax = 64;
// An object member counts as two (key and value). Bounds the memory of a body of "[[],[],..." to about 100 bytes each.
inline constexpr size_t kJsonValuesMax = 1'500'000;

// Strict RFC 8259: one value, valid UTF-8 without a byte order mark, no lone surrogates, no comments, no trailing
// commas, no NaN, no number beyond a double, no key twice in one object, no more than the limits above. Linear time.
// The error (code "invalid_json") says where, and never repeats the text.
std::variant<ApiError, Json> ReadJson(std::string_view text);

}  // namespace braid
