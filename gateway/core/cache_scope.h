#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace braid {

// Who shares with whom what is computed of prompts that begin alike. Sharing changes the time to the first token and
// nothing else, but by that time one caller could guess at another's prompts.
enum class SharePrefixes {
  kNone,  // nobody with anybody
  kUser,  // those with the same API key and the same `user`; callers who name none are one
  kAll,   // everybody with everybody
};

// "none", "user" or "all".
std::optional<SharePrefixes> ParseSharePrefixes(std::string_view text);

// Names the scope of a request (GenerateSequenceRequest.cache_scope): equal for requests that may share and for no
// others, whatever they name themselves. Tells nothing of what it is made of. `salt`: the caller's own wish to be
// apart. REQUIRES: not kNone.
std::string CacheScope(SharePrefixes share, std::string_view api_key, std::string_view user, std::string_view salt);

}  // namespace braid
