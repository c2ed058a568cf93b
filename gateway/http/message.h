#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/api_error.h"

// HTTP/1.1 messages as values: what is said, not how it is sent. Pure.

namespace braid {

inline constexpr char kJsonContentType[] = "application/json";
inline constexpr char kTextContentType[] = "text/plain; charset=utf-8";
inline constexpr char kEventStreamContentType[] = "text/event-stream; charset=utf-8";

struct HttpReply {
  int status = 200;
  std::string content_type;  // empty: no body
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // names and values are ours and clean
  std::string error_code;                                    // for the audit
};

HttpReply JsonReply(std::string body);
HttpReply ErrorReply(const ApiError& error);
// For refusals that only HTTP knows: 408, 417, 431...
HttpReply ErrorReply(int status, const ApiError& error);

// How a reply travels, apart from what it says.
struct HttpDelivery {
  int http_minor = 1;  // HTTP/1.0 or 1.1
  bool keep_alive = true;
  bool head_only = false;  // answers HEAD
  std::string request_id;
};
// Status line, headers and empty line, then the body unless head_only.
std::string Serialize(const HttpReply& reply, const HttpDelivery& delivery);
// The same for a body of unknown length that follows in chunks (1.1) or until the connection closes (1.0).
std::string SerializeStreamHead(const HttpDelivery& delivery);
// Wraps stream bytes for the wire. REQUIRES: text is not empty.
std::string Chunk(std::string_view text, const HttpDelivery& delivery);
std::string LastChunk(const HttpDelivery& delivery);

// A client's x-request-id is echoed if it is 1 to 128 letters, digits and "-_.:/+=@": it goes into headers and logs.
bool IsValidRequestId(std::string_view id);
// 128 random bits in hex. Thread-safe.
std::string RandomHex128();

// Takes the same time wherever the difference is.
bool EqualInConstantTime(std::string_view secret, std::string_view guess);
// `header` is "Bearer <key>".
bool HasBearerKey(std::string_view header, std::string_view key);

// The media type says JSON: "application/json", "text/json" or "...+json", any parameters. Nothing else is taken, not
// even nothing: a web page may post other types to a local server without asking, JSON it may not.
bool IsJsonMediaType(std::string_view content_type);

}  // namespace braid
