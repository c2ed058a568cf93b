#include "cli/bench_serve/server_address.h"

#include "absl/strings/numbers.h"
#include "base/status.h"

namespace braid {

std::string ServerAddress::Authority() const {
  const bool ipv6 = host.find(':') != host.npos;
  return (ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string ServerAddress::Url() const { return "http://" + Authority() + base; }

absl::StatusOr<ServerAddress> ParseServerUrl(std::string_view url) {
  constexpr std::string_view kScheme = "http://", kApi = "/v1";
  const absl::Status wrong = InvalidArgument("'" + std::string(url) + "' is not http://HOST[:PORT][/BASE]");
  if (url.starts_with("https://")) return InvalidArgument("https is not supported; name the server behind the proxy");
  if (!url.starts_with(kScheme)) return wrong;
  url.remove_prefix(kScheme.size());
  const size_t slash = url.find('/');
  std::string_view authority = url.substr(0, slash), base = slash == url.npos ? "" : url.substr(slash);
  while (base.ends_with('/')) base.remove_suffix(1);
  if (base.ends_with(kApi)) base.remove_suffix(kApi.size());
  while (base.ends_with('/')) base.remove_suffix(1);
  if (authority.find_first_of("@ \t?#") != authority.npos || base.find_first_of(" \t\r\n?#") != base.npos) return wrong;

  ServerAddress address;
  address.base = std::string(base);
  const bool ipv6 = authority.starts_with('[');
  const size_t host_end = ipv6 ? authority.find(']') : authority.find(':');
  if (ipv6 && host_end == authority.npos) return wrong;
  address.host = std::string(ipv6 ? authority.substr(1, host_end - 1) : authority.substr(0, host_end));
  const std::string_view rest = host_end == authority.npos ? "" : authority.substr(host_end + (ipv6 ? 1 : 0));
  if (address.host.empty()) return wrong;
  if (rest.empty()) return address;
  const bool number = rest[0] == ':' && absl::SimpleAtoi(AbslView(rest.substr(1)), &address.port);
  if (!number || address.port < 1 || address.port > 65535) return wrong;
  return address;
}

}  // namespace braid
