#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace braid {

struct ServerAddress {
  std::string host;
  int port = 80;
  std::string base;  // path before "/v1/...", without a slash at its end

  std::string Authority() const;  // for the Host header
  std::string Url() const;
};

// http://HOST[:PORT][/BASE]; a /v1 at the end, as clients of OpenAI's API write it, is left off. kInvalidArgument
// otherwise, https included: this is for measuring servers, not the proxies before them.
absl::StatusOr<ServerAddress> ParseServerUrl(std::string_view url);

}  // namespace braid
