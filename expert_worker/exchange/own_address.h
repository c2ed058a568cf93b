#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "absl/status/statusor.h"

namespace braid {

// IPv4 or IPv6.
union SocketAddress {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6 = {};  // the longest

  socklen_t bytes() const { return any.sa_family == AF_INET ? sizeof(v4) : sizeof(v6); }
  in_port_t& port() { return any.sa_family == AF_INET ? v4.sin_port : v6.sin6_port; }  // in network order
};

// The address under which the other workers of a cluster reach this machine, with port 0:
//  * of the first interface that `interfaces` names, which is what NCCL_SOCKET_IFNAME holds: beginnings of names, or
//    whole ones behind a "=", with commas between them. (A list of exceptions, behind a "^", names none.)
//  * else the one on the way to `router`, host:port, if that is another machine;
//  * else the one on the way out of this machine: the router may be here, and other workers elsewhere;
//  * else that of the loopback: nobody is elsewhere.
// May ask a name server. kUnavailable if there are `interfaces`, and none of them has an address.
absl::StatusOr<SocketAddress> OwnAddress(const std::string& interfaces, const std::string& router);

}  // namespace braid
