#include "gateway/gateway.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"
#include "gateway/audit.h"
#include "gateway/core/served_model.h"
#include "gateway/grpc/door.h"
#include "gateway/http/server.h"
#include "gateway/inference_service.h"

namespace braid {
namespace {

class GatewayImpl final : public Gateway {
 public:
  GatewayImpl(ServedModel model, const GatewayOptions& options, Metrics* metrics)
      : service_(std::move(model), options.channel ? options.channel : ConnectToRouter(options.router),
                 {.requests_max = options.requests_max,
                  .request_timeout = options.request_timeout,
                  .answer_tokens_default = options.answer_tokens_default,
                  .share_prefixes = *ParseSharePrefixes(options.share_prefixes),
                  .api_key = options.api_key},
                 metrics) {}
  ~GatewayImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status OpenDoors(const GatewayOptions& options, Metrics* metrics) {
    if (!options.audit_path.empty()) {
      ASSIGN_OR_RETURN(audit_, Audit::Open(options.audit_path, metrics));
    }
    HttpOptions http;
    http.host = options.host;
    http.port = options.http_port;
    http.api_key = options.api_key;
    http.connections_max = options.connections_max;
    http.body_bytes_max = options.body_bytes_max;
    http.audit = audit_.get();
    ASSIGN_OR_RETURN(http_, HttpServer::Start(service_.http(), metrics, http));
    if (options.grpc_port < 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(grpc_, GrpcDoor::Start(service_.grpc(), {options.host, options.grpc_port, options.api_key,
                                                              options.body_bytes_max, audit_.get()}));
    return absl::OkStatus();
  }

  int http_port() const override { return http_->port(); }
  int grpc_port() const override { return grpc_ ? grpc_->port() : -1; }
  std::string NotReady() const override { return service_.NotReady(); }

  void Shutdown(absl::Duration grace) override {
    const absl::Time deadline = absl::Now() + grace;
    service_.Drain();
    if (http_) http_->Drain();
    service_.WaitUntilIdle(grace);
    // Answers that have ended may still be on their way out.
    if (grpc_) grpc_->Stop(std::max(deadline - absl::Now(), absl::ZeroDuration()));
    if (http_) http_->Stop(std::max(deadline - absl::Now(), absl::ZeroDuration()));
  }

 private:
  InferenceService service_;
  std::unique_ptr<Audit> audit_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcDoor> grpc_;
};

absl::Status CheckOptions(const GatewayOptions& options) {
  if (options.requests_max < 1) return InvalidArgument("requests_max must be at least 1");
  if (options.connections_max < 1) return InvalidArgument("connections_max must be at least 1");
  if (options.body_bytes_max < 1024) return InvalidArgument("body_bytes_max must be at least 1024");
  if (options.request_timeout <= absl::ZeroDuration()) return InvalidArgument("request_timeout must be positive");
  if (options.answer_tokens_default < 0) return InvalidArgument("answer_tokens_default must not be negative");
  if (!ParseSharePrefixes(options.share_prefixes)) return InvalidArgument("share_prefixes must be user, all or none");
  if (options.http_port < 0 || options.http_port > 65535) return InvalidArgument("http_port must be in [0, 65535]");
  if (options.grpc_port < -1 || options.grpc_port > 65535) return InvalidArgument("grpc_port must be in [-1, 65535]");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const ModelFile* model, const GatewayOptions& options,
                                                        Metrics* metrics) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(ServedModel served, LoadServedModel(*model, options.model_name));
  auto gateway = std::make_unique<GatewayImpl>(std::move(served), options, metrics);
  RETURN_IF_ERROR(gateway->OpenDoors(options, metrics));
  return gateway;
}

}  // namespace braid
