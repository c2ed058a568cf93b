#pragma once

#include <vector>

#include "gateway/json/cursor.h"
#include "gateway/request.h"

namespace braid {

// The "messages" array of a chat. Text parts of a content list are joined without a separator, as the models' own
// templates do.
bool ReadMessages(const JsonCursor& value, std::vector<Message>* out);
// The "tools" array: objects, otherwise as they came; the validator looks inside.
bool ReadTools(const JsonCursor& value, std::vector<Json>* out);

}  // namespace braid
