#include "gateway/http/probe.h"

namespace braid {

HttpProbe::HttpProbe(Metrics* metrics)
    : connections(metrics->AddGauge("braid_http_connections", "Open HTTP connections.")),
      connections_refused(metrics->AddCounter("braid_http_connections_refused_total",
                                              "HTTP connections refused because too many were open.")),
      slow_readers(metrics->AddCounter("braid_http_slow_readers_total",
                                       "Streams cut off because their client did not read them.")),
      timeouts(metrics->AddCounter(
          "braid_http_timeouts_total",
          "HTTP connections cut off because a request came in, or an answer went out, too slowly.")),
      metrics_(metrics) {}

void HttpProbe::Request(const char* route, const std::string& method, int status) {
  const auto [counter, added] = requests_.try_emplace({route, method, status});
  if (added)
    counter->second = metrics_->AddCounter("braid_http_requests_total",
                                           "HTTP requests by route, method and status; 499 if the client went away.",
                                           {{"route", route}, {"method", method}, {"code", std::to_string(status)}});
  counter->second.Add();
}

std::string KnownMethod(const std::string& method) {
  for (const char* known : {"GET", "HEAD", "POST", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "other";
}

}  // namespace braid
