#include "expert_worker/exchange/own_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace braid {
namespace {

// Nobody has these: they are for documentation. The way there is the way out.
constexpr char kSomewhere[] = "192.0.2.1", kSomewhereV6[] = "2001:db8::1";

SocketAddress Copy(const sockaddr* from) {
  SocketAddress address;
  std::memcpy(&address.v6, from, from->sa_family == AF_INET ? sizeof(address.v4) : sizeof(address.v6));
  address.port() = 0;
  return address;
}

bool IsLoopback(const SocketAddress& address) {
  if (address.any.sa_family == AF_INET) return ntohl(address.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&address.v6.sin6_addr);
}

bool Names(const std::string& interfaces, std::string_view name) {
  if (interfaces[0] == '^') return false;
  std::istringstream parts(interfaces);
  for (std::string part; std::getline(parts, part, ',');) {
    if (part.empty()) continue;
    if (part[0] == '=' ? name == part.substr(1) : name.substr(0, part.size()) == part) return true;
  }
  return false;
}

std::optional<SocketAddress> OfInterface(const std::string& interfaces) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return std::nullopt;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owned(all, &freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
      if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != family || (one->ifa_flags & IFF_UP) == 0) continue;
      if (!Names(interfaces, one->ifa_name)) continue;
      const SocketAddress address = Copy(one->ifa_addr);
      // One of those means nothing elsewhere.
      if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&address.v6.sin6_addr)) continue;
      return address;
    }
  }
  return std::nullopt;
}

// The address that a datagram would come from; none is sent.
std::optional<SocketAddress> OnTheWayTo(const std::string& host, const std::string& port, int flags) {
  addrinfo hints = {};
  hints.ai_flags = flags;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return std::nullopt;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, &freeaddrinfo);
  for (; found != nullptr; found = found->ai_next) {
    const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    sockaddr_storage own = {};
    socklen_t bytes = sizeof(own);
    const bool known = connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                       getsockname(fd, reinterpret_cast<sockaddr*>(&own), &bytes) == 0;
    close(fd);
    if (known) return Copy(reinterpret_cast<const sockaddr*>(&own));
  }
  return std::nullopt;
}

std::optional<SocketAddress> OnTheWayToRouter(const std::string& router) {
  const size_t colon = router.rfind(':');
  if (colon == std::string::npos) return std::nullopt;
  std::string host = router.substr(0, colon);
  host.erase(0, host.rfind('/') + 1);  // as in dns:///router:7070
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return OnTheWayTo(host, router.substr(colon + 1), AI_NUMERICSERV);
}

}  // namespace

absl::StatusOr<SocketAddress> OwnAddress(const std::string& interfaces, const std::string& router) {
  if (!interfaces.empty() && interfaces[0] != '^') {
    if (const std::optional<SocketAddress> own = OfInterface(interfaces)) return *own;
    return absl::UnavailableError(
        fmt::format("NCCL_SOCKET_IFNAME is {}: this machine has no such interface with an address", interfaces));
  }
  std::optional<SocketAddress> own;
  if (!router.empty()) {
    own = OnTheWayToRouter(router);
    for (const char* somewhere : {kSomewhere, kSomewhereV6}) {
      if (!own || IsLoopback(*own)) own = OnTheWayTo(somewhere, "9", AI_NUMERICHOST | AI_NUMERICSERV);
    }
  }
  if (own) return *own;
  SocketAddress loopback;
  loopback.v4.sin_family = AF_INET;
  loopback.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return loopback;
}

}  // namespace braid
