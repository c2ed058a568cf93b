#include "gateway/http/admission.h"

#include <algorithm>

namespace braid {
namespace {

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return 'A' <= c && c <= 'Z' ? c - 'A' + 'a' : c + 0; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

HttpReply BadRequest(const char* message) { return ErrorReply(400, {.code = "bad_request", .message = message}); }

// Two readers of one connection must never disagree about where a request ends.
std::optional<HttpReply> RefuseFraming(const HttpHeader& header) {
  if (header.hosts > 1 || (header.http_minor == 1 && header.hosts == 0))
    return BadRequest("An HTTP/1.1 request needs one Host header.");
  if (!header.transfer_encoding.empty() &&
      (header.http_minor == 0 || !EqualsIgnoringCase(header.transfer_encoding, "chunked")))
    return BadRequest("The only Transfer-Encoding understood is 'chunked', in HTTP/1.1.");
  if (!header.expect.empty() && !EqualsIgnoringCase(header.expect, "100-continue"))
    return ErrorReply(417, {.code = "bad_request", .message = "The only expectation understood is '100-continue'."});
  return std::nullopt;
}

HttpReply NoKey(const HttpHeader& header) {
  return ErrorReply({.status = absl::StatusCode::kUnauthenticated,
                     .code = "invalid_api_key",
                     .message = header.authorization.empty()
                                    ? "No API key was sent. Send it as 'Authorization: Bearer <key>'."
                                    : "The API key is not right. Send it as 'Authorization: Bearer <key>'."});
}

HttpReply NoSuchRoute() {
  return ErrorReply({.status = absl::StatusCode::kNotFound,
                     .code = "unknown_url",
                     .message = "There is nothing at this path; GET / lists what there is."});
}

HttpReply WrongMethod(const Route& route) {
  const std::string allowed = AllowedMethods(route);
  HttpReply reply =
      ErrorReply({.code = "method_not_allowed", .message = std::string(route.label) + " takes " + allowed + "."});
  reply.headers.emplace_back("Allow", allowed);
  return reply;
}

HttpReply UnsupportedMedia(std::string message) {
  return ErrorReply({.code = "unsupported_media_type", .message = std::move(message)});
}

std::optional<HttpReply> RefuseBody(const HttpHeader& header, const HttpGuard& guard) {
  if (header.content_length > guard.body_bytes_max)
    return ErrorReply({.code = "body_too_large",
                       .message = "The body may have up to " + std::to_string(guard.body_bytes_max) + " bytes."});
  if (!header.content_encoding.empty() && !EqualsIgnoringCase(header.content_encoding, "identity"))
    return UnsupportedMedia("Compressed bodies are not accepted; send plain JSON without Content-Encoding.");
  if (header.method == "POST" && !IsJsonMediaType(header.content_type))
    return UnsupportedMedia(
        "The body must be JSON and say so: add the header 'Content-Type: application/json' (curl -d alone sends "
        "'application/x-www-form-urlencoded').");
  return std::nullopt;
}

}  // namespace

std::optional<HttpReply> RefuseHeader(const HttpHeader& header, const Route& route, const HttpGuard& guard) {
  if (std::optional<HttpReply> refusal = RefuseFraming(header)) return refusal;
  if (!route.open && !guard.api_key.empty() && !HasBearerKey(header.authorization, guard.api_key)) return NoKey(header);
  if (route.id == RouteId::kUnknown) return NoSuchRoute();
  if (!MethodFits(route, header.method)) return WrongMethod(route);
  return RefuseBody(header, guard);
}

}  // namespace braid
