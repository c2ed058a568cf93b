#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/inference.h"
#include "monitoring/metrics.h"

namespace braid {

class Audit;

// Every limit of the HTTP door. A client that crosses one is answered (or, if it does not read, cut off); it never
// costs another client anything.
struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;                  // 0 picks one
  std::string api_key;              // empty: none needed. Else a Bearer token on every route but health and metrics
  int connections_max = 4096;       // 503 beyond
  size_t body_bytes_max = 8 << 20;  // of one request; 413 beyond
  size_t bodies_bytes_max = size_t{512} << 20;        // of all requests not yet understood; 503 beyond
  size_t outbox_bytes_max = 4 << 20;                  // of a stream, not yet read by its client; cut off beyond
  absl::Duration header_timeout = absl::Seconds(10);  // from a request's first byte to the end of its header
  absl::Duration body_timeout = absl::Seconds(120);   // for the whole body
  absl::Duration idle_timeout = absl::Seconds(75);    // between requests
  absl::Duration write_timeout = absl::Seconds(30);   // without the client reading a byte
  absl::Duration comment_period = absl::Seconds(15);  // ": keep-alive" on a silent stream, for the proxies between
  absl::Duration tick = absl::Milliseconds(250);      // how often time-outs are looked at
  Audit* audit = nullptr;                             // must outlive the server; null: no audit
};

// The OpenAI-compatible HTTP/1.1 door. Sockets live on one thread; understanding a request (JSON, template, tokenizer)
// happens on a small pool, so that one long prompt does not stall other people's streams.
class HttpServer {
 public:
  // Listens before it returns. `inference` and `metrics` must outlive the server.
  // kUnavailable if the port is taken, naming it; kInvalidArgument if `host` is not an IP address or a resolvable name.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Inference* inference, Metrics* metrics,
                                                           const HttpOptions& options);
  virtual ~HttpServer() = default;  // Stop(zero) if still running

  virtual int port() const = 0;
  // /health says "draining", new calls get 503, answers in progress go on, connections close after their answer.
  // Returns at once.
  virtual void Drain() = 0;
  // Drain(), waits until no answer is in progress or `grace` has passed, then closes everything: no Call is left.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace braid
