#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace braid {

// JSON values as the chat templates print them, byte for byte. Depth is not limited: nothing here recurses.

// json.dumps(value, ensure_ascii=False): ", " and ": " between, keys in their order, nothing escaped for HTML.
std::string ToPythonJson(const nlohmann::ordered_json& value);

// str(value): a string as it is, anything else as repr: True, None, 1.5, ['it', {'a': "it's"}].
std::string ToPythonStr(const nlohmann::ordered_json& value);

// str.strip() without arguments.
std::string_view PythonStrip(std::string_view text);

}  // namespace braid
