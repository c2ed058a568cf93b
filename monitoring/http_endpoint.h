#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "monitoring/metrics.h"

namespace braid {

// A tiny HTTP server for the processes that have no other: GET /metrics, /livez (this process makes progress) and
// /readyz (200 or 503 with a reason). Bounded: few connections, small requests, short timeouts. Own thread.
class MetricsEndpoint {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;                            // 0: any free one
    // Both are called on the server's thread and may be empty.
    std::function<std::string()> not_ready;  // empty string: ready; else the reason
    std::function<std::string()> warning;    // what whoever runs this should know while it is ready; empty: nothing
  };
  // `metrics` must outlive the endpoint. kUnavailable if the port is taken, naming it.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(Metrics* metrics, Options options);
  virtual ~MetricsEndpoint() = default;
  virtual int port() const = 0;
};

}  // namespace braid
