#pragma once

#include <map>
#include <string>
#include <tuple>

#include "monitoring/metrics.h"

namespace braid {

// What the HTTP door counts. Used on its I/O thread only.
struct HttpProbe {
  explicit HttpProbe(Metrics* metrics);

  // Once per request, at its end. `method` is one of the known ones or "other", so that clients cannot make series.
  void Request(const char* route, const std::string& method, int status);

  Gauge connections;
  Counter connections_refused;  // over the limit
  Counter slow_readers;         // cut off
  Counter timeouts;             // header, body or write

 private:
  Metrics* metrics_;
  std::map<std::tuple<const char*, std::string, int>, Counter> requests_;  // labels are looked up once
};

std::string KnownMethod(const std::string& method);

}  // namespace braid
