#include "gateway/http/routes.h"

#include <optional>

namespace braid {
namespace {

struct Entry {
  const char* path;
  Route route;
};

constexpr Entry kRoutes[] = {
    {"/", {RouteId::kRoot, "/", "GET"}},
    {"/health", {RouteId::kHealth, "/health", "GET", true}},
    {"/v1/health", {RouteId::kHealth, "/health", "GET", true}},
    {"/livez", {RouteId::kLive, "/livez", "GET", true}},
    {"/readyz", {RouteId::kReady, "/readyz", "GET", true}},
    {"/metrics", {RouteId::kMetrics, "/metrics", "GET", true}},
    {"/version", {RouteId::kVersion, "/version", "GET"}},
    {"/v1/models", {RouteId::kModels, "/v1/models", "GET"}},
    {"/v1/chat/completions", {RouteId::kChat, "/v1/chat/completions", "POST"}},
    {"/v1/completions", {RouteId::kCompletions, "/v1/completions", "POST"}},
    {"/tokenize", {RouteId::kTokenize, "/tokenize", "POST"}},
    {"/detokenize", {RouteId::kDetokenize, "/detokenize", "POST"}},
};
constexpr Route kModelRoute = {RouteId::kModel, "/v1/models/{id}", "GET"};
constexpr std::string_view kModelPrefix = "/v1/models/";

// "http://host/path?query" -> "/path". Anything odd ends up as a path that matches nothing.
std::string_view PathOf(std::string_view target) {
  if (const size_t scheme = target.find("://"); scheme != target.npos && !target.starts_with('/')) {
    const size_t path = target.find('/', scheme + 3);
    target = path == target.npos ? "/" : target.substr(path);
  }
  return target.substr(0, target.find_first_of("?#"));
}

int HexDigit(char c) {
  if ('0' <= c && c <= '9') return c - '0';
  if ('a' <= c && c <= 'f') return c - 'a' + 10;
  return 'A' <= c && c <= 'F' ? c - 'A' + 10 : -1;
}

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1, low = high < 0 ? -1 : HexDigit(text[i + 2]);
    if (low < 0) return std::nullopt;
    out += static_cast<char>(high << 4 | low);
    i += 2;
  }
  return out;
}

}  // namespace

RouteMatch MatchRoute(std::string_view target) {
  const std::string_view path = PathOf(target);
  for (const Entry& entry : kRoutes) {
    if (path == entry.path) return {entry.route, ""};
  }
  if (!path.starts_with(kModelPrefix) || path.size() == kModelPrefix.size()) return {};
  std::optional<std::string> id = PercentDecoded(path.substr(kModelPrefix.size()));
  return id ? RouteMatch{kModelRoute, *std::move(id)} : RouteMatch{};
}

bool MethodFits(const Route& route, std::string_view method) {
  return method == route.method || method == "OPTIONS" || (method == "HEAD" && std::string_view(route.method) == "GET");
}

std::string AllowedMethods(const Route& route) {
  return std::string_view(route.method) == "GET" ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
}

}  // namespace braid
