#include "gateway/http/message.h"

#include <sys/random.h>

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "base/check.h"
#include "gateway/openai/format.h"

namespace braid {
namespace {

constexpr char kHex[] = "0123456789abcdef";

const char* ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Internal Server Error";
  }
}

void AppendHeader(std::string_view name, std::string_view value, std::string* out) {
  ((*out += name) += ": ") += value;
  *out += "\r\n";
}

std::string Head(int status, const HttpDelivery& delivery) {
  std::string out = "HTTP/1." + std::to_string(delivery.http_minor) + " " + std::to_string(status) + " " +
                    ReasonPhrase(status) + "\r\n";
  if (!delivery.request_id.empty()) AppendHeader("x-request-id", delivery.request_id, &out);
  if (!delivery.keep_alive) AppendHeader("Connection", "close", &out);
  if (delivery.keep_alive && delivery.http_minor == 0) AppendHeader("Connection", "keep-alive", &out);
  return out;
}

// Both in the header every client knows and in the one with milliseconds the OpenAI SDKs prefer.
void AddRetryAfter(absl::Duration wait, HttpReply* reply) {
  const int64_t ms = std::max<int64_t>(0, absl::ToInt64Milliseconds(wait));
  reply->headers.emplace_back("Retry-After", std::to_string((ms + 999) / 1000));
  reply->headers.emplace_back("retry-after-ms", std::to_string(ms));
}

char Lower(char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string_view Trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

HttpReply JsonReply(std::string body) { return {.content_type = kJsonContentType, .body = std::move(body)}; }

HttpReply ErrorReply(const ApiError& error) { return ErrorReply(HttpStatus(error), error); }

HttpReply ErrorReply(int status, const ApiError& error) {
  HttpReply reply = JsonReply(ErrorJson(error));
  reply.status = status;
  reply.error_code = error.code;
  if (status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after) AddRetryAfter(*error.retry_after, &reply);
  return reply;
}

std::string Serialize(const HttpReply& reply, const HttpDelivery& delivery) {
  std::string out = Head(reply.status, delivery);
  if (!reply.content_type.empty()) AppendHeader("Content-Type", reply.content_type, &out);
  if (reply.status != 204) AppendHeader("Content-Length", std::to_string(reply.body.size()), &out);
  for (const auto& [name, value] : reply.headers) AppendHeader(name, value, &out);
  out += "\r\n";
  if (!delivery.head_only) out += reply.body;
  return out;
}

std::string SerializeStreamHead(const HttpDelivery& delivery) {
  std::string out = Head(200, delivery);
  AppendHeader("Content-Type", kEventStreamContentType, &out);
  AppendHeader("Cache-Control", "no-cache", &out);
  AppendHeader("X-Accel-Buffering", "no", &out);
  if (delivery.http_minor >= 1) AppendHeader("Transfer-Encoding", "chunked", &out);
  return out + "\r\n";
}

std::string Chunk(std::string_view text, const HttpDelivery& delivery) {
  if (delivery.http_minor == 0) return std::string(text);
  std::string size;
  for (size_t n = text.size(); n > 0; n >>= 4) size.insert(size.begin(), kHex[n & 15]);
  return ((size += "\r\n") += text) += "\r\n";
}

std::string LastChunk(const HttpDelivery& delivery) { return delivery.http_minor == 0 ? "" : "0\r\n\r\n"; }

bool IsValidRequestId(std::string_view id) {
  constexpr size_t kBytesMax = 128;
  const auto allowed = [](char c) {
    const char lower = Lower(c);
    return ('a' <= lower && lower <= 'z') || ('0' <= c && c <= '9') ||
           std::string_view("-_.:/+=@").find(c) != std::string_view::npos;
  };
  return !id.empty() && id.size() <= kBytesMax && std::all_of(id.begin(), id.end(), allowed);
}

std::string RandomHex128() {
  unsigned char bytes[16];
  CHECK_EQ(getrandom(bytes, sizeof(bytes), 0), static_cast<ssize_t>(sizeof(bytes)));  // never short below 256 bytes
  std::string out;
  for (unsigned char byte : bytes) out += {kHex[byte >> 4], kHex[byte & 15]};
  return out;
}

bool EqualInConstantTime(std::string_view secret, std::string_view guess) {
  unsigned difference = secret.size() != guess.size();
  for (size_t i = 0; i < guess.size(); ++i) {
    const volatile char expected = secret.empty() ? 0 : secret[i % secret.size()];
    difference |= static_cast<unsigned char>(expected ^ guess[i]);
  }
  return difference == 0;
}

bool HasBearerKey(std::string_view header, std::string_view key) {
  constexpr std::string_view kScheme = "bearer ";
  const bool scheme = std::equal(kScheme.begin(), kScheme.end(), header.begin(),
                                 header.begin() + std::min(header.size(), kScheme.size()),
                                 [](char a, char b) { return a == Lower(b); });
  return scheme && EqualInConstantTime(key, Trimmed(header.substr(kScheme.size())));
}

bool IsJsonMediaType(std::string_view content_type) {
  std::string type(Trimmed(content_type.substr(0, content_type.find(';'))));
  std::transform(type.begin(), type.end(), type.begin(), Lower);
  return type == "application/json" || type == "text/json" ||
         (type.starts_with("application/") && type.ends_with("+json"));
}

}  // namespace braid
