#pragma once

#include <string>
#include <string_view>

namespace braid {

// What the door serves. The table in http_routes.cc is the whole list: what is not in it is 404.
enum class RouteId {
  kRoot,
  kHealth,
  kLive,
  kReady,
  kMetrics,
  kVersion,
  kModels,
  kModel,
  kChat,
  kCompletions,
  kTokenize,
  kDetokenize,
  kUnknown
};

struct Route {
  RouteId id = RouteId::kUnknown;
  const char* label = "unknown";  // for metrics and audit: bounded, whatever clients ask for
  const char* method = "";        // GET (with HEAD) or POST; empty: unknown route
  bool open = false;              // needs no key, and is no call worth a line in the audit
};

struct RouteMatch {
  Route route;
  std::string argument;  // kModel: the model's id, decoded
};

// `target` as in the request line: origin or absolute form, with or without a query (which is ignored).
RouteMatch MatchRoute(std::string_view target);
// Whether `method` fits the route; HEAD fits GET, OPTIONS fits every known route.
bool MethodFits(const Route& route, std::string_view method);
std::string AllowedMethods(const Route& route);  // for the Allow header

}  // namespace braid
