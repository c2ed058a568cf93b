#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/inference.h"

namespace braid {

class Audit;

struct GrpcOptions {
  std::string host = "127.0.0.1";
  int port = 8001;                  // 0 picks one
  std::string api_key;              // empty: none needed. Else "authorization: Bearer ..." on every call of Inference
  size_t body_bytes_max = 8 << 20;  // of one message; gRPC answers RESOURCE_EXHAUSTED beyond
  Audit* audit = nullptr;           // must outlive the door; null: no audit
};

// The gRPC door: braid.v1.Inference, grpc.health.v1 (SERVING only while calls are taken) and reflection. A call's
// request id is its metadata x-request-id, or a new one, and comes back as initial metadata.
class GrpcDoor {
 public:
  // Listens before it returns. `inference` must outlive the door. kUnavailable if the port is taken, naming it.
  static absl::StatusOr<std::unique_ptr<GrpcDoor>> Start(Inference* inference, const GrpcOptions& options);
  virtual ~GrpcDoor() = default;  // Stop(zero) if still running

  virtual int port() const = 0;
  // Health says NOT_SERVING, calls in progress go on until `grace` has passed; afterwards no Call is left.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace braid
