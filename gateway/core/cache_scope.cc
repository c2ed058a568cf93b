#include "gateway/core/cache_scope.h"

#include <openssl/evp.h>

#include <array>

#include "base/check.h"

namespace braid {

std::optional<SharePrefixes> ParseSharePrefixes(std::string_view text) {
  if (text == "none") return SharePrefixes::kNone;
  if (text == "user") return SharePrefixes::kUser;
  if (text == "all") return SharePrefixes::kAll;
  return std::nullopt;
}

std::string CacheScope(SharePrefixes share, std::string_view api_key, std::string_view user, std::string_view salt) {
  CHECK(share != SharePrefixes::kNone);
  if (share == SharePrefixes::kAll) api_key = user = {};
  if (api_key.empty() && user.empty() && salt.empty()) return "";
  std::string what;  // with lengths, so that no two can be mistaken for each other
  for (const std::string_view part : {api_key, user, salt}) {
    what += std::to_string(part.size());
    what += ':';
    what += part;
  }
  std::array<unsigned char, 32> hash;
  CHECK(EVP_Digest(what.data(), what.size(), hash.data(), nullptr, EVP_sha256(), nullptr) == 1);
  return {hash.begin(), hash.end()};
}

}  // namespace braid
