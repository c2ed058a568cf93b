#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "expert_worker/exchange/exchange.h"

namespace braid {

struct UcxOptions {
  // UCX_TLS: which transports may be used. Peers on one host share memory (posix) if they share its PID namespace.
  std::string transports = "tcp,posix,self";
  // How long to poll before sleeping. Right when every rank has a core of its own, harmful otherwise.
  absl::Duration spin = absl::ZeroDuration();
};

// Peers are processes anywhere, over UCX's tagged messages. There is no encryption and no authentication on these
// connections: bind to a private network (UCX_NET_DEVICES). Thread-compatible. kUnavailable if UCX cannot start, e.g.
// because `transports` names none that this machine has.
absl::StatusOr<std::unique_ptr<HostExchangeFactory>> MakeUcxExchangeFactory(const UcxOptions& options);

}  // namespace braid
