#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "gateway/http/message.h"
#include "gateway/http/routes.h"

namespace braid {

// What of a request's header decides whether its body is read at all. Absent headers are empty.
struct HttpHeader {
  std::string method, target;
  int http_minor = 1;
  int hosts = 0;  // Host headers
  bool has_body = false;
  uint64_t content_length = 0;
  std::string authorization, content_type, content_encoding, transfer_encoding, expect, request_id;
};

struct HttpGuard {
  std::string api_key;
  uint64_t body_bytes_max = 0;
};

// The refusal, or nothing when the request may go on. Checked in the order a stranger may learn things: well-formed,
// the key, then the route.
std::optional<HttpReply> RefuseHeader(const HttpHeader& header, const Route& route, const HttpGuard& guard);

}  // namespace braid
