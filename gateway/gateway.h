#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "monitoring/metrics.h"

namespace grpc {
class Channel;
}

namespace braid {

class ModelFile;

// A whole gateway: the HTTP and gRPC doors, one validator behind both, sessions that turn token ids into typed text.
struct GatewayOptions {
  std::string router = "127.0.0.1:7070";   // used if `channel` is null
  std::shared_ptr<grpc::Channel> channel;  // in-process
  std::string host = "127.0.0.1";
  int http_port = 8000;    // 0 picks one
  int grpc_port = 8001;    // 0 picks one; -1: no gRPC door
  std::string model_name;  // default: the file's
  std::string api_key;     // empty: none needed. Else Bearer token on every route but health and metrics
  std::string audit_path;  // one JSON line per request; empty: none
  size_t body_bytes_max = 8 << 20;
  int connections_max = 4096;
  int requests_max = 2048;  // in progress; beyond it 429
  absl::Duration request_timeout = absl::Hours(1);
  // Longest answer of a request that does not say (memory for it is reserved at once); 0: what the context has left.
  int answer_tokens_default = 16384;
  // Whose prompts that begin alike share what is computed of that: "user" (the same API key and `user`), "all", "none".
  std::string share_prefixes = "user";
};

class Gateway {
 public:
  // Listens at once and answers "loading" until the router is ready. `model` and `metrics` must outlive the gateway.
  // kUnavailable if a port is taken, naming it.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const ModelFile* model, const GatewayOptions& options,
                                                        Metrics* metrics);
  virtual ~Gateway() = default;

  virtual int http_port() const = 0;
  virtual int grpc_port() const = 0;
  virtual std::string NotReady() const = 0;  // empty string when ready
  // Answers /health with draining, refuses new requests, lets the others finish until `grace` has passed.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace braid
